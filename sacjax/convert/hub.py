"""Folders of checkpoints from a hub, by `huggingface_hub` (extra `hub`).

Where the hub is, who asks and where files are kept is what that library reads from the environment:
HF_ENDPOINT, HF_TOKEN, HF_HUB_CACHE; with HF_HUB_OFFLINE=1 only what is there already is used.
"""

import functools
import re
import sys
from pathlib import Path
from typing import NamedTuple

from sacjax.errors import UserError, first_line

DESCRIPTIONS = ("config.json", "preprocessor_config.json")
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors")
NAME = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w./-]+))?", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")


class Repository(NamedTuple):
    """A repository of a hub."""

    name: str
    """ORG/NAME."""

    revision: str | None
    """A commit, tag or branch; None: the newest."""

    def __str__(self) -> str:
        """Returns it as `init_from` names it."""
        return f"hf:{self.name}" + (f"@{self.revision}" if self.revision else "")


def repository(text: str) -> Repository | None:
    """Returns the repository that `ORG/NAME` or `ORG/NAME@REVISION` names; None for other texts.

    A folder of that name is a folder.
    """
    found = None if Path(text).exists() else NAME.fullmatch(text)
    return Repository(*found.groups()) if found else None


@functools.cache
def descriptions(source: Repository) -> Path:
    """Returns a folder with a repository's config.json and preprocessor_config.json.

    It is downloaded where it is not in the cache, as by `weights`; once a process.

    Raises:
      UserError: as `weights`.
    """
    return _download(source, DESCRIPTIONS)


@functools.cache
def weights(source: Repository) -> Path:
    """Returns a folder with a repository's descriptions and safetensors; nothing else is fetched.

    Without a revision it says on stderr which commit it is.

    Raises:
      UserError: `huggingface_hub` is not installed; there is no such repository or revision;
        nobody may read it; the hub does not answer and it is not in the cache; or it has no
        safetensors.
    """
    folder = _download(source, DESCRIPTIONS + WEIGHTS)
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"{source}: there are no safetensors in it; pickled weights are not read: convert them "
            "by save_pretrained into a folder and give that"
        )
    if not (source.revision and COMMIT.fullmatch(source.revision)):
        print(
            f"{source} is commit {folder.name}; hf:{source.name}@{folder.name} stays at it",
            file=sys.stderr,
        )
    return folder


def _download(source: Repository, patterns: tuple[str, ...]) -> Path:
    try:
        import huggingface_hub
    except ModuleNotFoundError:
        raise UserError(
            f"{source}: there is no such folder, and to download it needs huggingface_hub: "
            "pip install 'sacjax[hub]'"
        ) from None
    from huggingface_hub import errors

    try:
        return Path(
            huggingface_hub.snapshot_download(
                source.name, revision=source.revision, allow_patterns=list(patterns)
            )
        )
    except errors.GatedRepoError:
        raise UserError(
            f"{source}: its owner grants access on its page; ask for it there and set HF_TOKEN"
        ) from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"{source}: neither a folder here nor a repository of the hub (a private one needs "
            "HF_TOKEN)"
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{source}: the repository has no such revision") from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        offline = huggingface_hub.constants.is_offline_mode()
        why = "HF_HUB_OFFLINE is set" if offline else "the hub cannot be reached"
        raise UserError(f"{source}: not, or not whole, in the cache, and {why}") from None
    except (errors.HFValidationError, errors.HfHubHTTPError, OSError, ValueError) as error:
        raise UserError(f"{source}: cannot be downloaded: {first_line(error)}") from error
