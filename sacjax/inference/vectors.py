"""Tables of vectors on disk: .npz and .parquet."""

from pathlib import Path
from typing import Any

import numpy as np

from sacjax import io
from sacjax.errors import UserError


def write(
    path: Path, files: list[str], table: dict[str, np.ndarray], row_files: np.ndarray | None = None
) -> None:
    """Writes `files` and the arrays of `table` as .npz or .parquet, whole or not at all.

    Args:
      path: of `check_output`.
      table: `embeddings` and any other arrays of a .npz.
      row_files: the file of each frame, as an index into `files`; a .parquet then has a row for
        each frame, with its time.

    Raises:
      UserError: the file cannot be written.
    """
    # Names may hold bytes that are not UTF-8.
    names = [name.encode("utf-8", "backslashreplace").decode() for name in files]
    with io.writing(path) as out:
        if path.suffix == ".npz":
            np.savez(out, files=np.array(names, str), **table)  # type: ignore[arg-type]
        else:
            _write_parquet(out, names, table, row_files)


def _write_parquet(
    out: Any, names: list[str], table: dict[str, np.ndarray], row_files: np.ndarray | None
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    vectors = table["embeddings"]
    ends = np.arange(len(vectors) + 1) * vectors.shape[1]
    is_large = ends[-1] >= 1 << 31  # a plain list's offsets have 32 bits
    lists = pa.LargeListArray if is_large else pa.ListArray
    offsets = pa.array(ends, pa.int64() if is_large else pa.int32())
    column = lists.from_arrays(offsets, vectors.ravel())
    if row_files is None:
        columns = {"file": pa.array(names), "embedding": column}
    else:
        file = pa.DictionaryArray.from_arrays(
            pa.array(row_files, pa.int32()), pa.array(names)
        ).dictionary_decode()
        columns = {"file": file, "time": pa.array(table["times"]), "embedding": column}
    pq.write_table(pa.table(columns), out)


def check_output(path: Path) -> None:
    """Makes a table's folder. Raises UserError for a file that cannot be written there.

    It is called before anything is computed.
    """
    if path.suffix not in (".npz", ".parquet"):
        raise UserError(f"--output is '{path}': its name must end in .npz or .parquet")
    if path.is_dir():
        raise UserError(f"--output is '{path}': that is a folder; name a file")
    if path.suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise UserError(
                "--output: .parquet needs pyarrow: pip install pyarrow, or write .npz"
            ) from error
    io.check_writable(path, "--output")
