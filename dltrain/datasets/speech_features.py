"""Features of recordings at one sample rate: standardized log-mel frames, joined into steps."""

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from dltrain.data.ragged import Ragged
from dltrain.data.spec import Audio, Fitted
from dltrain.datasets.audio_files import Recording, decode_audio, read_rate, resample
from dltrain.datasets.log_mel import LogMel
from dltrain.errors import ConfigError, format_error

DIGITS = 16  # number of hexadecimal digits to keep of a file's hash
SMALLEST_STD = 1e-3  # minimum of the standard deviation of a band, in nats, so that constant bands are not amplified


class Frames(NamedTuple):
    """Log-mel frames of a recording.

    Args:
        values: Float32 (frames, bands).
        seconds: Duration.
        rate, channels: Sample rate and channels of the file.
        digest: First `DIGITS` hexadecimal digits of the file's SHA-256 hash.
    """

    values: Tensor
    seconds: float
    rate: int
    channels: int
    digest: str

    def without_values(self) -> "Frames":
        """Return a copy without `values`, to save memory."""
        return self._replace(values=torch.empty(0))


class Features:
    """Conversion of recordings to steps, which are one or more standardized log-mel frames.

    Args:
        bands: Mel bands of a frame, at least 1.
        window_ms, hop_ms: Length of frames and distance between them, in milliseconds.
        stack: Consecutive frames that form one step, at least 1.
        rate: Sample rate in Hz; None to let `fit_rate` choose it.
    """

    def __init__(self, bands: int, window_ms: float, hop_ms: float, stack: int, rate: int | None) -> None:
        self.bands, self.window_ms, self.hop_ms, self.stack = bands, window_ms, hop_ms, stack
        self.rate, self.log_mel = rate, None if rate is None else LogMel(rate, bands, window_ms, hop_ms)
        self.mean, self.std = torch.zeros(bands), torch.ones(bands)

    @property
    def audio(self) -> Audio:
        """Format of the steps."""
        return Audio(self.bands, self.stack, self.hop_ms * self.stack / 1000)

    def max_steps(self, seconds: float) -> int:
        """Return the maximum number of steps of a recording of this duration; the rate must be set."""
        assert self.rate is not None and self.log_mel is not None, "the rate must be fitted first"
        samples = math.ceil(seconds * self.rate)  # resampling rounds up
        return -(-(1 + samples // self.log_mel.hop) // self.stack)

    def fit_rate(self, files: Sequence[Path]) -> None:
        """Use the most frequent sample rate of these files, unless the rate is set.

        Raises:
            ConfigError: No file can be read.
        """
        if self.rate is not None:
            return
        rates = Counter(rate for rate in map(read_rate, files) if rate is not None)
        if not rates:
            got = f"{len(files)} that cannot be read, such as {files[0]}"
            raise ConfigError(format_error("data.path", "readable audio files for training", got))
        self.rate = rates.most_common(1)[0][0]
        self.log_mel = LogMel(self.rate, self.bands, self.window_ms, self.hop_ms)

    def frames(self, content: bytes) -> Frames:
        """Return the frames of an audio file.

        Raises:
            UnreadableAudio: The content cannot be decoded.
            ConfigError: The sample rate must be converted, and scipy is not installed.
        """
        assert self.rate is not None and self.log_mel is not None, "the rate must be fitted first"
        original = decode_audio(content)
        recording: Recording = resample(original, self.rate)
        values = self.log_mel(torch.from_numpy(recording.samples))
        digest = hashlib.sha256(content).hexdigest()[:DIGITS]
        return Frames(values, original.seconds, original.rate, original.channels, digest)

    def fit_scale(self, frames: Sequence[Frames]) -> None:
        """Fit mean and standard deviation of each band to all frames of these recordings."""
        values = torch.cat([each.values for each in frames]).double()
        self.mean = values.mean(0).float()
        self.std = values.std(0, correction=0).clamp(min=SMALLEST_STD).float()

    def count_steps(self, frames: Frames) -> int:
        """Return the number of steps of a recording."""
        return -(-len(frames.values) // self.stack)

    def steps(self, frames: Sequence[Frames]) -> Ragged:
        """Return the standardized steps (steps, stack * bands) of recordings; zeros fill an incomplete last step."""
        rows = [(each.values - self.mean) / self.std for each in frames]
        rows = [F.pad(row, (0, 0, 0, -len(row) % self.stack)).view(-1, self.stack * self.bands) for row in rows]
        empty = torch.empty(0, self.stack * self.bands)
        return Ragged(torch.cat([empty, *rows]), torch.tensor([len(row) for row in rows], dtype=torch.int64))

    def state(self) -> Fitted:
        """Return the fitted state."""
        return {"rate": self.rate, "mean": self.mean, "std": self.std}

    def adopt(self, state: Fitted) -> None:
        """Use the state that `state` returned in an earlier run."""
        self.rate, self.mean, self.std = state["rate"], state["mean"], state["std"]
        self.log_mel = LogMel(state["rate"], self.bands, self.window_ms, self.hop_ms)

    def __str__(self) -> str:
        return f"{self.rate} {self.bands} {self.window_ms} {self.hop_ms} {self.stack}"
