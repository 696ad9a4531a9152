"""Training between two questions, in a process of its own that says in lines of JSON how far it is.

    python -m robal.labelling.training FOLDER [DATA]

It ends when the run asks again or is over. A process whose reader is gone stops, and nothing is lost.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from robal.errors import AwaitingLabels, RobalError
from robal.loop import rounds
from robal.machine import keep_freed_memory
from robal.progress import heard_by, quiet
from robal.records import plan_of
from robal.report import report


def tell(**what: Any) -> None:
    """One line."""
    print(json.dumps(what), flush=True)


def main(arguments: list[str]) -> None:
    """Go on with a run, and tell."""
    keep_freed_memory()
    sys.path.insert(0, str(Path.cwd()))  # module:name finds what lies in the current folder, as in `robal`
    folder, data = Path(arguments[0]), Path(arguments[1]) if len(arguments) > 1 else None
    try:
        with quiet(), heard_by(lambda what, done, total: tell(what=what, done=done, total=total)):
            plan = plan_of(folder, data)
            for _ in rounds(plan, plan.data.load(), folder):
                tell(what="a round is finished", done=0, total=None)
            tell(report=str(report([folder])))
    except AwaitingLabels:
        tell(asks=True)
    except (RobalError, OSError) as error:
        tell(error=str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
