"""What runs inside a vLLM server beside vLLM: weights that come from a folder, and are the ones that answer next.

A package of its own, which imports nothing of kedge's: vLLM's environment has other versions of what that needs.

    python -m vllm.entrypoints.launchers.api_server.entry --worker-extension-cls kedge_vllm.FromFolder ...
"""

from typing import Any

ADAPTER = 1
"""What an engine calls the first adapter that it hears of."""


class FromFolder:
    """Mixed into vLLM's worker (``--worker-extension-cls kedge_vllm.FromFolder``)."""

    model_runner: Any
    vllm_config: Any
    add_lora: Any
    list_loras: Any
    _kedge_base: str | None = None
    """Where the weights come from that an adapter is beside."""

    def kedge_rank(self) -> int:
        """The largest rank of an adapter that may come; 0: none may."""
        from vllm import envs  # type: ignore[import-not-found]

        lora = self.vllm_config.lora_config
        return 0 if lora is None or not envs.VLLM_ALLOW_RUNTIME_LORA_UPDATING else int(lora.max_lora_rank)

    def kedge_load(self, folder: str, adapter: str | None = None) -> None:
        """Answer with the weights of a Hugging Face folder from now on.

        Args:
            folder: as the server sees it. With an adapter it is read once: what is in it stays.
            adapter: a folder of PEFT's with the adapter to answer with, in place of the one before.
        """
        if adapter is None or folder != self._kedge_base:
            self._kedge_base = None
            self._kedge_weights(folder)
        if adapter is not None:
            from vllm.lora.request import LoRARequest  # type: ignore[import-not-found]

            if {*self.list_loras()} - {ADAPTER}:
                raise ValueError("there are other adapters on this server; start it without any")
            # In place, and here alone: answers that are being written go on with it.
            self.add_lora(LoRARequest("kedge-adapter", ADAPTER, adapter, load_inplace=True))
            self._kedge_base = folder

    def _kedge_weights(self, folder: str) -> None:
        self.model_runner.reload_weights(weights_path=folder)
        head = getattr(self.model_runner.get_model(), "lm_head", None)
        process = getattr(getattr(head, "quant_method", None), "process_weights_after_loading", None)
        if process is not None:
            # On the CPU the head packs its matrix, and a reload of tied embeddings leaves the old one packed.
            process(head)
