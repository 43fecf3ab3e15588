"""`avemo synthesize {affectnet,fec,recola}`: synthetic corpora in the releases' own forms."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from data_pipelines.synthetic import affectnet, fec, recola


@dataclass(frozen=True)
class SyntheticCorpus:
    """What every synthetic corpus is told.

    Attributes:
        out: a new folder for the corpus.
        seed: root of all random numbers; one seed gives one corpus.
    """

    out: Path
    seed: int = 0


@dataclass(frozen=True)
class SynthesizeAffectNet(SyntheticCorpus):
    """Draw faces and labels in the form of AffectNet.

    Attributes:
        preset: its size; "tiny" is for tests.
        release: which of AffectNet's forms is written; both hold the same faces and labels.
    """

    preset: Literal["tiny", "demo"] = "demo"
    release: Literal["2017", "2021"] = "2017"

    def __call__(self) -> None:
        """Write the corpus."""
        config = replace(affectnet.PRESETS[self.preset], release=self.release)
        affectnet.synthesize(self.out, config, self.seed)
        announce(self.out)


@dataclass(frozen=True)
class SynthesizeFec(SyntheticCorpus):
    """Draw photographs and triplets in the form of Google FEC.

    Attributes:
        preset: its size; "tiny" is for tests.
    """

    preset: Literal["tiny", "demo"] = "demo"

    def __call__(self) -> None:
        """Write the corpus."""
        fec.synthesize(self.out, fec.PRESETS[self.preset], self.seed)
        announce(self.out)


@dataclass(frozen=True)
class SynthesizeRecola(SyntheticCorpus):
    """Draw films of talking faces with six raters' annotations in the form of RECOLA.

    Attributes:
        preset: its size; "tiny" is for tests, "large" has all of RECOLA's recordings, two minutes each; "crowd"
            100 people, one minute each, with a partition of their own (its partition.json).
    """

    preset: Literal["tiny", "demo", "large", "crowd"] = "demo"

    def __call__(self) -> None:
        """Write the corpus."""
        recola.synthesize(self.out, recola.PRESETS[self.preset], self.seed)
        announce(self.out)


def announce(out: Path) -> None:
    """Say where the corpus and its truth lie."""
    print(f"synthetic corpus: {out} (what a perfect model would reach: {out / 'truth.json'})")
