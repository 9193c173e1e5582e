"""What the modules may know of each other."""

import re

import pytest
from processes import ROOT

# Names and metrics of one objective: nothing but its file and configs may build on them.
OF_AN_OBJECTIVE = ("contrastive", "code_perplexity", "codebook_entries")
OF_TRANSFORMERS = "contrastive_logits_temperature"  # a key of its config.json


@pytest.mark.parametrize("word", OF_AN_OBJECTIVE)
def test_nothing_but_objectives_names_what_is_one_objectives(word):
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for folder in ("sacjax", "launch")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if not path.is_relative_to(ROOT / "sacjax" / "objectives")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(word, line.replace(OF_TRANSFORMERS, ""), re.IGNORECASE)
    ]
    assert not found, "\n".join(found)
