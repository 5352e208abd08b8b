"""The user's own data sets, as `slabench data import-folder` left them: found in the data folder by every process.

Beside the arrays of its store, the folder of such a data set holds what the catalog says of a shipped one, and its splits:
`own.json`, `class-split.json` (for few-shot; of the form of `episodes/splits/`) and `image-split.csv` (for classifiers).
What `own.json` holds: `slabench.data.own_facts`.
"""

from __future__ import annotations

from slabench.core import paths
from slabench.core.errors import DataError, SlabenchError
from slabench.core.registry import IMPORTED, Entry
from slabench.data.splits import OWN


def found() -> tuple[list[Entry], dict[str, SlabenchError]]:
    """The data sets that were imported into the data folder of now, by name; and by name what is wrong with others."""
    entries: list[Entry] = []
    amiss: dict[str, SlabenchError] = {}
    files = [file for file in paths.data().glob(f"*/{OWN}") if not file.parent.name.startswith(".")]
    if not files:
        return entries, amiss
    # Start-up time: names are looked up when the tab key is pressed, too.
    from slabench.data.own_facts import read_facts

    for folder in sorted(file.parent for file in files):
        try:
            facts = read_facts(folder)
        except DataError as error:
            amiss[folder.name] = error
            continue
        except FileNotFoundError:  # another process is replacing it
            continue
        entries.append(Entry(facts.name, facts.info(folder), facts.summary, IMPORTED, str(folder)))
    return entries, amiss
