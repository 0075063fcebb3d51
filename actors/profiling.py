"""What an actor's time goes into, by torch's profiler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_SHOWN = 15
"""So many operations are told; the trace has all of them."""


class Profiled:
    """An actor that records what it does between two calls; both are cheap where nobody asks for it."""

    _profiler: Any = None

    def start_profile(self) -> None:
        """Record every operation of torch on every thread from here on."""
        import torch
        from torch._C._profiler import _ExperimentalConfig
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
        # What an actor is asked for may run on another thread than this.
        threads = _ExperimentalConfig(profile_all_threads=True)
        self._profiler = profile(activities=activities, experimental_config=threads)
        self._profiler.start()

    def stop_profile(self, trace: Path) -> dict[str, Any]:
        """Write a Chrome trace, which Perfetto shows, and return what the time went into.

        `operations` has name, calls, and seconds without those of other operations within, on the CPU and on a GPU,
        the longest first; `seconds` is their sum over all operations on the CPU.
        """
        profiler, self._profiler = self._profiler, None
        profiler.stop()
        trace.parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(trace))
        found = [
            {
                "name": one.key,
                "calls": one.count,
                "seconds": one.self_cpu_time_total / 1e6,
                "device_seconds": one.self_device_time_total / 1e6,
            }
            for one in profiler.key_averages()
        ]
        found.sort(key=lambda one: -max(one["seconds"], one["device_seconds"]))
        return {"operations": found[:_SHOWN], "seconds": sum(one["seconds"] for one in found)}
