"""Celery's own command line for this node's programs, deaf to the variables that configure Celery elsewhere.

Each of its options can be given by an environment variable, and `.env` is exported: a neighbour's app would choose our
broker.
"""

import sys

from orchestrator.task_queue.broker import forget_celery_variables

forget_celery_variables()

from celery.__main__ import main  # noqa: E402 - it reads them

if __name__ == "__main__":
    if "flower" in sys.argv:
        from orchestrator.task_queue import flower as flower_queues  # it is not always installed

        flower_queues.install()
    main()
