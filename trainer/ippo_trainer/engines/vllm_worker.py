"""What vLLM's workers do besides their own work: vLLM adds this class to theirs (`worker_extension_cls`)."""

from typing import Any


class WeightReader:
    """Reads weights in the midst of the work. The attributes and `reload_weights` are the worker's."""

    device: Any
    model_runner: Any
    reload_weights: Any

    def read_weights(self, place: str) -> None:
        """Takes the weights of a folder."""
        self.reload_weights(weights_path=place)
        head: Any = getattr(self.model_runner.get_model(), "lm_head", None)
        if self.device.type == "cpu" and hasattr(head, "cpu_linear"):
            # It has a copy of its weight in another form, which vLLM 0.32 does not renew where that is the embedding's.
            head.quant_method.process_weights_after_loading(head)


NAME = f"{WeightReader.__module__}.{WeightReader.__qualname__}"
"""By which vLLM finds it."""
