"""Settings of truncated back-propagation through time, the group `bptt` of a recipe."""

from dataclasses import dataclass


@dataclass
class BpttArguments:
    """Whole songs in windows, for recurrent models; `data` then says what is read, but not in which crops."""

    window: int = 0  # tokens per window; 0: off, rows are the crops of `data`
    lanes: int = 16  # songs read side by side in one update, over all processes and micro-batches
    carry: bool = True  # hand the state on from window to window; False: shuffled windows from the zero state


def validate_bptt_arguments(bptt: BpttArguments, batches_per_update: int) -> None:
    """Raise ValueError naming the argument, the value and the remedy."""
    if bptt.window < 0:
        raise ValueError(f"bptt.window is {bptt.window}: give a number of tokens, or 0 to read crops")
    if bptt.window and (bptt.lanes < 1 or bptt.lanes % batches_per_update):
        raise ValueError(
            f"bptt.lanes is {bptt.lanes}: give a positive multiple of train.batches_per_update {batches_per_update}"
        )
