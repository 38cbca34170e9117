"""Ends a process without the interpreter's exit handlers.

Native libraries abort or hang in theirs: LiveKit's threads call back into an interpreter that is gone, and the process
ends by signal 6 after its work is done.
"""

import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn


def end_after(work: Callable[[], None], crashed: Callable[[], object] = traceback.print_exc) -> NoReturn:
    """Run the work of this process and exit: with 0, with what `sys.exit` was called with, or with 1 after a crash.

    `crashed`: is called while an exception is handled, to print it.
    """
    code = 1
    try:
        work()
        code = 0
    except SystemExit as request:
        code = request.code if isinstance(request.code, int) else int(bool(request.code))
        if isinstance(request.code, str):
            sys.stderr.write(f"{request.code}\n")
    except BaseException:
        crashed()
    finally:
        with contextlib.suppress(Exception):
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
