"""`avemo fetch fec`: download the photographs that a release only links to. No other command downloads anything."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from rich.console import Console
from rich.table import Table
from tyro.conf import Positional, arg

from data_pipelines.fetch import LEDGER, PASSING, FetchConfig, fetch_photographs


@dataclass(frozen=True)
class Fetch:
    """Download the photographs that a release only links to; call again to go on.

    Attributes:
        corpus: the only release that comes as links.
        source: folder of its lists; the photographs go to images/ inside, and what became of each link to
            fetched.jsonl.
        config: how.
    """

    corpus: Positional[Literal["fec"]]
    source: Path
    config: Annotated[FetchConfig, arg(name="")] = field(default_factory=FetchConfig)

    def __call__(self) -> None:
        """Download and tell how many links had which outcome."""
        console = Console()
        try:
            counts = fetch_photographs(self.source, self.config)
        except KeyboardInterrupt:
            console.print("Interrupted. Nothing is lost: the same command goes on from here.")
            raise
        table = Table(title=str(self.source / LEDGER), title_justify="left", show_header=False)
        for outcome, number in counts.most_common():
            table.add_row(outcome.value, str(number))
        console.print(table)
        if passing := sum(counts[outcome] for outcome in PASSING):
            console.print(f"{passing} links may work at another time: the same command tries them again.")
