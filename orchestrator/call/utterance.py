"""What a caller has heard an agent say."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agent_runtime.offline import speech


@dataclass(slots=True)
class Utterance:
    """Something the agent said."""

    started: float  #: monotonic time of its first sound
    frames: list[NDArray[np.int16]] = field(default_factory=list)

    def text(self) -> str:
        """Return it as text, by offline recognition."""
        return speech.recogniser().hear(np.concatenate(self.frames)) if self.frames else ""
