"""Which suites and tasks there are. Known without any simulator, so that a wrong name is refused at once."""

from grids_common.errors import GridsError
from grids_eval.suites.metaworld.tasks import GROUPS

ALOHA = ("transfer_cube", "insertion")
SUITES = {"aloha": {"all": ALOHA, **{task: (task,) for task in ALOHA}}, "metaworld": GROUPS}
JERK_UNITS = {"aloha": "rad/s³", "metaworld": "m/s³"}


class SuiteError(GridsError):
    """A suite that cannot be evaluated: what was expected, what came, what to do."""


def tasks_of(text: str) -> tuple[str, tuple[str, ...]]:
    """The suite and the tasks that `suite/task` or `suite/group` names. Raises SuiteError."""
    suite, _, name = text.partition("/")
    if suite not in SUITES:
        raise SuiteError(f"--suite: expected {' or '.join(f'{known}/TASK' for known in SUITES)}, got {text!r}")
    known = SUITES[suite]
    if name not in known:
        names = [*known][:8]
        more = ", …" if len(known) > len(names) else ""
        raise SuiteError(f"--suite: {suite} has {', '.join(names)}{more}, got {name!r}")
    return suite, known[name]
