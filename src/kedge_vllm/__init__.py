"""What runs inside a vLLM server beside vLLM: weights that come from a folder, and are the ones that answer next.

A package of its own, which imports nothing: vLLM's environment has other versions of what kedge needs.

    python -m vllm.entrypoints.launchers.api_server.entry --worker-extension-cls kedge_vllm.FromFolder ...
"""

from typing import Any


class FromFolder:
    """Mixed into vLLM's worker (``--worker-extension-cls kedge_vllm.FromFolder``)."""

    model_runner: Any

    def kedge_load(self, folder: str) -> None:
        """Answer with the weights of a Hugging Face folder from now on.

        Args:
            folder: as the server sees it.
        """
        self.model_runner.reload_weights(weights_path=folder)
        head = getattr(self.model_runner.get_model(), "lm_head", None)
        process = getattr(getattr(head, "quant_method", None), "process_weights_after_loading", None)
        if process is not None:
            # On the CPU the head packs its matrix, and a reload of tied embeddings leaves the old one packed.
            process(head)
