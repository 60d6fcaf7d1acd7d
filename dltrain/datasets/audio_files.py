"""Read audio files as one channel at one sample rate."""

import io
from importlib.util import find_spec
from math import gcd
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dltrain.errors import ConfigError

SUFFIXES = (".flac", ".mp3", ".ogg", ".wav")


class UnreadableAudio(ValueError):
    """Failure to decode a file; the message gives the reason."""


class Recording(NamedTuple):
    """Decoded audio.

    Args:
        samples: Mean of the channels, float32 (samples,), at least one sample; full scale is 1.
        rate: Samples per second.
        channels: Number of channels of the file.
    """

    samples: np.ndarray
    rate: int
    channels: int

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return len(self.samples) / self.rate


def is_audio(file: Path) -> bool:
    """Return whether a file has the suffix of an audio file."""
    return file.suffix.casefold() in SUFFIXES


def check_installed(package: str, purpose: str) -> None:
    """Raise ConfigError if a package of the extra ``speech`` is not installed."""
    if find_spec(package) is None:
        reason = f"{package}, which {purpose}, is not installed"
        raise ConfigError(f"data.path: not supported because {reason}. Run pip install 'dltrain[speech]'.")


def decode_audio(content: bytes) -> Recording:
    """Decode the content of an audio file.

    Raises:
        UnreadableAudio: The content is not audio, is empty, or has samples that are NaN or infinite.
    """
    import soundfile

    try:
        samples, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise UnreadableAudio(_reason(error)) from error
    if not len(samples):
        raise UnreadableAudio("a file without samples")
    if not np.isfinite(samples).all():
        raise UnreadableAudio("samples that are NaN or infinite")
    return Recording(samples.mean(axis=1), int(rate), samples.shape[1])


def read_rate(file: Path) -> int | None:
    """Return the sample rate in the header of a file; None if it cannot be read."""
    import soundfile

    try:
        return int(soundfile.info(str(file)).samplerate)
    except (soundfile.SoundFileError, RuntimeError, OSError):
        return None


def resample(recording: Recording, rate: int) -> Recording:
    """Resample a recording to `rate` with a polyphase low-pass filter, unless it already has this rate.

    Raises:
        ConfigError: The package scipy is not installed.
    """
    if recording.rate == rate:
        return recording
    check_installed("scipy", f"converts {recording.rate:,} Hz to {rate:,} Hz")
    from scipy.signal import resample_poly

    common = gcd(rate, recording.rate)
    samples = resample_poly(recording.samples, rate // common, recording.rate // common)
    return recording._replace(samples=samples.astype(np.float32), rate=rate)


def _reason(error: Exception) -> str:
    return str(getattr(error, "error_string", "") or error).strip().rstrip(".")
