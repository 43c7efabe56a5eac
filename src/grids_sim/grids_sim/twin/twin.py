"""The running twin: physics in real time, a servo bank and a serial line per arm, faults, shared snapshot. No ROS.

Threads: one for physics (absolute deadlines, 300 steps/s), one per serial line. Everything that touches the world
runs in the physics thread; other threads queue work with `_call` and read results that are replaced as a whole.
"""

import hashlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

import numpy as np

from grids_common.host.realtime import become_realtime, ordinary_priority
from grids_common.so100 import HOME_POSE_RAD, REST_POSE_RAD
from grids_common.tasks import TASKS
from grids_common.topics import CAMERAS
from grids_sim.nodes.params import TwinParams
from grids_sim.servo import registers as reg
from grids_sim.servo.bank import BankConfig, ServoBank
from grids_sim.servo.bus_log import ERROR_NAMES, BusLog
from grids_sim.servo.plant import SimplePlant, StuckJoints, WorldPlant
from grids_sim.servo.serial_bus import SerialBus
from grids_sim.twin import faults as fault_kinds
from grids_sim.twin.faults import FaultInjector
from grids_sim.twin.hand import LeaderHand, wave
from grids_sim.twin.link_folder import STATE_NAME, LinkFolder
from grids_sim.twin.shared_state import StateWriter

PHYSICS_HZ = 300
PHYSICS_PRIORITY = 15  # SCHED_FIFO: like real hardware, the twin must not be delayed by load on this computer
MAX_BACKLOG_STEPS = 60
TRUTH_STEPS = 10
SNAPSHOT_STEPS = 3
LOG_FLUSH_STEPS = 30


@dataclass(slots=True)
class TwinStats:
    """Totals since the start.

    `dropped_steps`: skipped because the machine was too slow; `realtime`: whether real-time priority was granted.
    """

    steps: int = 0
    dropped_steps: int = 0
    worst_late_s: float = 0.0
    realtime: bool = False


class _Arm:
    """One arm: servo bank, serial line and plant."""

    def __init__(self, name: str, twin: "Twin", plant) -> None:
        params = twin.params
        horn = params.horn_ticks if name == "follower" else (0,) * 6
        self.name = name
        self.bank = ServoBank(BankConfig(horn_ticks=tuple(horn)))
        if params.configured:
            _apply_lerobot_settings(self.bank)
        self.plant = StuckJoints(plant)
        self.bus = SerialBus(name, twin.folder.path / name, self.bank, twin.faults, twin.log)
        self.was_on = np.zeros(6, bool)
        self.command = None

    def sense(self, dt_s: float) -> None:
        self.command = self.bank.update(dt_s, self.plant.position_rad, self.plant.velocity_rad_s, self.plant.effort_nm)


def _apply_lerobot_settings(bank: ServoBank) -> None:
    """What LeRobot's SO100Follower writes when it connects, as far as it changes timing or protection."""
    for index in range(bank.count):
        bank.set(index, "Return_Delay_Time", 0)
        bank.set(index, "Acceleration", 254)
        bank.set(index, "P_Coefficient", 16)
    gripper = bank.count - 1
    bank.set(gripper, "Max_Torque_Limit", 500)
    bank.set(gripper, "Protection_Current", 250)
    bank.set(gripper, "Overload_Torque", 25)


class Twin:
    """The whole twin: `start` its threads, use it, `close` it. Public methods are thread-safe.

    `warn` receives sentences for the user's log, from any thread. FolderInUseError if another twin uses the folder.
    """

    def __init__(self, params: TwinParams | None = None, *, warn: Callable[[str], None] = lambda text: None) -> None:
        self.params = params or TwinParams()
        self._warn = warn
        self.folder = LinkFolder(self.params.link_dir)
        try:
            self._build()
        except BaseException:
            self.folder.close()
            raise

    def _build(self) -> None:
        params = self.params
        self.faults = FaultInjector(params.fault_seed)
        self.log = BusLog(params.bus_log or None)
        self.stats = TwinStats()
        self.world = self._new_world(params.task, params.seed) if params.plant == "mujoco" else None
        self._task, self._seed, self._episode, self._sim_s = params.task, params.seed, 1, 0.0
        start = np.asarray(REST_POSE_RAD if params.start_pose == "rest" else HOME_POSE_RAD)
        plant = WorldPlant(self.world) if self.world else SimplePlant(start)
        if self.world:
            self.world.reset(params.seed, arm_rad=start)
        self.arms = {"follower": _Arm("follower", self, plant)}
        self._hand_target: np.ndarray | None = None
        if params.leader:
            leader = SimplePlant(REST_POSE_RAD, lag_s=0.02)
            self.arms["leader"] = _Arm("leader", self, leader)
        self._read_truth()
        self._operator = None
        self._hand = self._new_hand()
        self._state = self._open_state() if self.world else None
        self._work: SimpleQueue = SimpleQueue()
        self._fault_revision = -1
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="physics", daemon=True)
        self.failure: BaseException | None = None

    @staticmethod
    def _new_world(task: str, seed: int):
        from grids_sim.physics.world import World, WorldConfig

        world = World(WorldConfig(task=task))
        world.reset(seed)
        return world

    def _open_state(self) -> StateWriter:
        tag = hashlib.sha256(str(self.folder.path.resolve()).encode()).hexdigest()[:12]
        shm = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path("/tmp")
        writer = StateWriter(shm / f"grids-twin-{tag}")
        self._publish_snapshot(writer)
        (self.folder.path / STATE_NAME).symlink_to(writer.path)
        return writer

    # -- life --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Open the serial lines and start the threads."""
        for arm in self.arms.values():
            arm.sense(1e-6)
            arm.bus.start()
        self._thread.start()

    def close(self) -> None:
        """Stop the threads and remove links and files. A second call does nothing."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=3.0)
        if self._operator is not None:
            self._operator.close()
        for arm in self.arms.values():
            arm.bus.close()
        if self._state is not None:
            self._state.close()
        self.log.close()
        self.folder.close()

    @property
    def paths(self) -> dict[str, str]:
        """Serial link per arm."""
        return {name: str(arm.bus.link) for name, arm in self.arms.items()}

    def check(self) -> None:
        """RuntimeError if one of the threads ended with an exception (its cause)."""
        for failure in (self.failure, *(arm.bus.failure for arm in self.arms.values())):
            if failure is not None:
                raise RuntimeError("a thread of the twin ended") from failure

    # -- for clients of the twin -------------------------------------------------------------------------------

    def inject(
        self,
        kind: str,
        *,
        target: str = "",
        arm: str = "follower",
        value: float = 0.0,
        duration_s: float = 0.0,
    ) -> str:
        """As `FaultInjector.inject`, but starting now; an empty `kind` clears all faults."""
        if not kind:
            self.faults.clear()
            self.log.event("follower", "faults cleared")
            return "all faults cleared"
        arm = arm or "follower"
        if arm in fault_kinds.ARMS and arm not in self.arms:
            raise fault_kinds.FaultError("this twin has no leader arm")
        text = self.faults.inject(
            kind,
            now_s=time.monotonic(),
            target=target,
            arm=arm,
            value=value,
            duration_s=duration_s,
        )
        if kind == "power_cycle":
            self.arms[arm].bank.power_cycle()
        self.log.event(arm, text)
        return text

    def reset(self, task: str = "", seed: int | None = None) -> int:
        """Draw a new scene and return its seed (None: the next seed); the arm does not move.

        ValueError for an unknown task.
        """
        task = task or self._task
        if task not in TASKS:
            raise ValueError(f"task: expected one of {', '.join(TASKS)}, got {task!r}")
        seed = self._seed + 1 if seed is None else seed
        if self.world is None:
            self._seed, self._episode = seed, self._episode + 1
            return seed
        world = None
        if task != self._task:
            with ordinary_priority():
                world = self._new_world(task, seed)
        self._call(lambda: self._swap(task, seed, world))
        return seed

    def _swap(self, task: str, seed: int, world) -> None:
        pose, episode = self.world.position_rad, self.world.episode
        if world is not None:
            self.world, world.episode = world, episode
            self.arms["follower"].plant.plant = WorldPlant(world)
        self.world.reset(seed, arm_rad=pose)
        self._task, self._seed = task, seed
        self._read_truth()

    def truth(self):
        """The newest `grids_sim.physics.world.Truth` (at most 1/30 s old), None without MuJoCo."""
        return self._truth[0]

    def stamped_truth(self):
        """The newest `truth` and the time at which it was read, in ns of the system clock."""
        return self._truth

    def _read_truth(self) -> None:
        self._truth = (self.world.truth() if self.world else None, time.time_ns())

    def set_hand(self, pose_rad) -> None:
        """Set the pose (6,) rad to which the operator (operator: topic) moves the leader; None releases the leader."""
        self._hand_target = None if pose_rad is None else np.asarray(pose_rad, float)

    def _call(self, work: Callable[[], object], timeout_s: float = 10.0):
        """Run `work` in the physics thread and return its result."""
        future: Future = Future()
        self._work.put((work, future))
        return future.result(timeout_s)

    # -- physics thread ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        self.stats.realtime = not become_realtime(PHYSICS_PRIORITY)
        try:
            self._loop()
        except Exception as error:  # top of the thread: kept for `check`
            self.failure = error
            self._warn(f"physics stopped: {error}")

    def _loop(self) -> None:
        batch = self.params.step_batch
        period_s = batch / PHYSICS_HZ
        start_s, done = time.monotonic(), 0
        warned_s = -1e9
        while not self._stopping.is_set():
            now_s = time.monotonic()
            due = int((now_s - start_s) * PHYSICS_HZ) - done
            if due > MAX_BACKLOG_STEPS:
                skipped = due - batch
                done += skipped
                self.stats.dropped_steps += skipped
                due = batch
                if now_s - warned_s > 10.0:
                    warned_s = now_s
                    self._warn(
                        f"the machine is too slow for real time: skipped {skipped} physics steps "
                        f"({skipped / PHYSICS_HZ:.2f} s)"
                    )
            for _ in range(due):
                self._step()
            done += due
            self._between()
            wait_s = start_s + done / PHYSICS_HZ + period_s - time.monotonic()
            if wait_s > 0:
                time.sleep(wait_s)
            else:
                self.stats.worst_late_s = max(self.stats.worst_late_s, -wait_s)

    def _step(self) -> None:
        dt_s = 1 / PHYSICS_HZ
        for arm in self.arms.values():
            if arm.name == "leader" and self._hand is not None:
                hand_rad = self._hand.step(self._sim_s, dt_s, arm.plant.position_rad)
                arm.plant.plant.hand_rad = hand_rad
            arm.plant.step(arm.command, dt_s, self.faults.joints("stuck_joint", arm.name))
            arm.sense(dt_s)
            self._note_releases(arm)
        self._sim_s += dt_s
        self.stats.steps += 1
        if self.stats.steps % LOG_FLUSH_STEPS == 0:
            self.log.flush()  # includes the last writes of a client that has stopped
        if self.world is None:
            return
        if self.stats.steps % TRUTH_STEPS == 0:
            self._read_truth()
        if self.stats.steps % SNAPSHOT_STEPS == 0:
            self._publish_snapshot(self._state)

    def _publish_snapshot(self, writer: StateWriter) -> None:
        writer.write(
            self.world.snapshot(),
            stamp_ns=time.time_ns(),
            task=self._task,
            camera_faults={camera: self.faults.camera_code(camera) for camera in CAMERAS},
        )

    def _note_releases(self, arm: _Arm) -> None:
        on = arm.command.torque_on
        if (arm.was_on & ~on).any():
            for index in np.flatnonzero(arm.was_on & ~on):
                bits = arm.bank.error_bits(index) & reg.ERROR_HEAT
                if bits:
                    self.log.event(
                        arm.name,
                        f"released by itself: {ERROR_NAMES[bits]}",
                        servo_id=arm.bank.servo_id(index),
                    )
        arm.was_on = on

    def _between(self) -> None:
        """Between steps: expire and apply faults, then run the work queued by other threads."""
        self.faults.expire(time.monotonic())
        if self.faults.revision != self._fault_revision:
            self._fault_revision = self.faults.revision
            self._apply_faults()
        while True:
            try:
                work, future = self._work.get_nowait()
            except Empty:
                return
            try:
                future.set_result(work())
            except Exception as error:  # raised again in the caller
                future.set_exception(error)

    def _apply_faults(self) -> None:
        for name, arm in self.arms.items():
            arm.bus.set_plugged(plugged=self.faults.value("unplug", name) is None)
            sag = self.faults.value("voltage_sag", name)
            arm.bank.supply_v = arm.bank.config.supply_v if sag is None else sag
            arm.bank.heat_towards(self.faults.temperatures_c(name))
            arm.bank.force_overload(self.faults.joints("overload", name))

    # -- operator ----------------------------------------------------------------------------------------------

    def _new_hand(self) -> LeaderHand | None:
        if "leader" not in self.arms or self.params.operator == "none":
            return None
        start = self.arms["leader"].plant.position_rad
        match self.params.operator:
            case "wave":
                return LeaderHand(start, wave)
            case "topic":
                return LeaderHand(start, lambda now_s: self._hand_target)
            case _:
                from grids_sim.expert.operator import ExpertTarget

                follower = self.arms["follower"]
                self._operator = ExpertTarget(self.truth, lambda: follower.plant.position_rad)
                return LeaderHand(start, self._operator)
