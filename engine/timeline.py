"""The only place that turns clips into frames and seconds.

F frames a clip, m of them carried over from the previous clip; the *head* of each later clip is trimmed by m, so that
segments are append-only.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Timeline:
    """Frame arithmetic of a film: `num_frames` F a clip, `num_motion_frames` m shared by neighbours, `fps`."""

    num_frames: int
    num_motion_frames: int
    fps: int

    def window(self, index: int) -> tuple[int, int]:
        """First and last+1 film frame that clip `index` generates, its overlap included."""
        start = index * (self.num_frames - self.num_motion_frames)
        return start, start + self.num_frames

    def overlap(self, index: int) -> int:
        """Frames at the head of clip `index` that repeat the previous clip and are trimmed."""
        return 0 if index == 0 else self.num_motion_frames

    def segment(self, index: int) -> tuple[int, int]:
        """First and last+1 film frame that the stored segment of clip `index` adds to the film."""
        start, end = self.window(index)
        return start + self.overlap(index), end

    def total(self, num_clips: int) -> int:
        """Frames of a film of `num_clips` clips: nF − (n−1)m."""
        return num_clips * self.num_frames - max(num_clips - 1, 0) * self.num_motion_frames

    def seconds(self, frame: int) -> float:
        return frame / self.fps

    def clips_for(self, seconds: float) -> int:
        """How many clips the paper counts for a film of `seconds`: one for every F frames, overlaps not taken off.

        At 81 frames and 16 fps 50 s are 10 clips and 250 s are 50, and the film is shorter by (n−1)m frames.
        """
        return max(1, math.ceil(round(seconds * self.fps / self.num_frames, 6)))
