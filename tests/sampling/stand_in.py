"""A server that answers as vLLM does, with kedge's engine; and what can be wrong with one."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from kedge.models.adapters import attach, merge
from kedge.models.language_model import load_language_model
from kedge.sampling.fleet.lora import NAME
from kedge.sampling.local.engine import Engine
from kedge.sampling.settings import Sampling

LOADING = threading.Lock()


class StandIn:
    """What ``VLLM_SERVER_DEV_MODE=1 ... --enable-scale-out --worker-extension-cls kedge_vllm.FromFolder`` answers.

    One thread writes, a token for all at a time, and stands still while it is paused.
    """

    def __init__(self, folder):
        self.engine = Engine(load_language_model(folder))
        self.turn = threading.Condition()
        self.labels = ["default"]
        """Of the weights, by the engine's number for them."""
        self.asked, self.loaded, self.salts, self.drawn = 0, [], [], 0
        self.dies_after = self.busy = None
        self.aborts = self.hangs = self.stale = self.raw = self.sick = False
        self.keeps_keys = self.forgets_pause = False
        self.rank = 0
        """Of adapters that it loads beside the weights."""
        self.knows_adapter = self.is_adapted = self.forgets_adapter = False
        self.positions = 512
        self.slow = 0.0
        """Seconds a token takes."""
        self.paused = self.closed = False
        threading.Thread(target=self._write, daemon=True).start()

    @property
    def label(self):
        return self.labels[self.engine.version]

    @label.setter
    def label(self, label):
        self.labels[self.engine.version] = label

    def answer(self, method, path, body):
        if method == "GET":
            assert path in ("/health", "/v1/models", "/metrics")
            if path == "/metrics":
                engine = '{engine="0",model_name="policy"}'
                counters = {"prompt_tokens_total": 0, "generation_tokens_total": self.drawn, "other": 3}
                lines = [f"vllm:{name}{engine} {count}.0" for name, count in counters.items()]
                return 200, "\n".join(["# HELP what it counts", *lines, ""])
            model = {"id": "policy", "object": "model", "max_model_len": self.positions}
            models = [model, model | {"id": NAME}] if self.knows_adapter else [model]
            return 200, {"object": "list", "data": models} if path == "/v1/models" else None
        return self._generate(body) if path == "/inference/v1/generate" else self._manage(path, body)

    def _manage(self, path, body):
        with self.turn:
            if path == "/reset_prefix_cache":
                return 200, {"success": not self.keeps_keys}
            if path == "/update_weight_version":
                self.label = body["new_version"]
                return 200, {"success": True, "new_version": self.label}
            if path in ("/pause?mode=keep", "/resume"):
                self.paused = path.startswith("/pause") and not self.forgets_pause
                self.turn.notify_all()
                return 200, {"status": "paused" if self.paused else "resumed"}
            if path == "/v1/load_lora_adapter":
                if not self.rank:
                    return 404, {"detail": "Not Found"}
                assert not self.knows_adapter
                assert body["lora_name"] == NAME
                self.knows_adapter = True
                return 200, f"Success: LoRA adapter '{NAME}' added successfully."
            assert path == "/collective_rpc"
            if body["method"] == "kedge_rank":
                return 200, {"results": [self.rank]}
            assert body["method"] == "kedge_load"
            assert self.paused or self.forgets_pause
            folder, adapter = body["kwargs"]["folder"], body["kwargs"].get("adapter")
            assert adapter is None or self.knows_adapter
            self.loaded.append(adapter or folder)
            if not self.stale or len(self.loaded) == 1:
                with LOADING:  # from_pretrained is not for several threads
                    other = load_language_model(folder)
                    if adapter and not self.forgets_adapter:
                        attach(other.model, adapter)
                        merge(other.model)
                self.is_adapted = adapter is not None
                self.labels.append(self.label)
                self.engine.publish(other.weights(), len(self.labels) - 1)
            return 200, {"results": [None]}

    def _write(self):
        while not self.closed:
            with self.turn:
                self.turn.wait_for(
                    lambda: self.closed or (not self.paused and self.engine.waiting + self.engine.writing)
                )
                if not self.closed:
                    self.drawn += len(self.engine.step())
                self.turn.notify_all()
            time.sleep(self.slow)

    def _generate(self, body):
        self.asked += 1
        self.salts.append(body["cache_salt"])
        params, lm = body["sampling_params"], self.engine.lm
        if max(body["token_ids"]) >= len(lm.tokenizer):
            return 400, {"error": {"message": f"Token id {max(body['token_ids'])} is out of vocabulary"}}
        assert (body.get("model") == NAME) == self.is_adapted
        assert params["ignore_eos"]
        assert params["logprobs"] == 0
        length = min(params["max_tokens"], self.positions - len(body["token_ids"]))
        sampling = Sampling(
            max_new_tokens=length, temperature=params["temperature"], top_k=params["top_k"], top_p=params["top_p"],
            min_p=params["min_p"], presence_penalty=params["presence_penalty"],
            frequency_penalty=params["frequency_penalty"],
            logit_bias=tuple((int(token), bias) for token, bias in params["logit_bias"].items()),
        )  # fmt: skip
        with self.turn:
            object.__setattr__(lm, "eos_ids", tuple(params["stop_token_ids"]))
            request = self.engine.submit(body["token_ids"], sampling, seed=params["seed"])
            self.turn.notify_all()
            self.turn.wait_for(lambda: request.finish_reason)
        said = request.completion()
        logprobs = [2 * each for each in said.logprobs] if self.raw else said.logprobs
        content = [
            {"token_id": token, "logprob": logprob, "rank": 1}
            for token, logprob in zip(said.ids, logprobs, strict=True)
        ]
        content = [each | {"top_logprobs": [each]} for each in content]
        choice = {"index": 0, "finish_reason": "stop" if said.finish_reason == "eos" else "length",
                  "token_ids": said.ids, "logprobs": {"content": content},
                  "weight_versions": self._spans(said.versions)}  # fmt: skip
        if self.aborts:
            choice |= {"finish_reason": "abort", "token_ids": [], "logprobs": {"content": []}}
        return 200, {"request_id": "a", "model": "policy", "choices": [choice]}

    def written(self):
        """Tokens of each answer that is being written."""
        with self.turn:
            return [len(request.ids) for request in [*self.engine._active, *self.engine._waiting]]

    def _spans(self, versions):
        spans = []
        for place, version in enumerate(versions):
            if not spans or spans[-1]["version"] != self.labels[version]:
                spans.append({"version": self.labels[version], "start": place, "end": place})
            spans[-1]["end"] = place + 1
        return spans


@contextmanager
def serving(stand_in, port=0, host="127.0.0.1"):
    """Its URL, while it is there."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.do_POST()

        def do_POST(self):
            text = self.rfile.read(int(self.headers.get("content-length") or 0))
            if stand_in.hangs or (stand_in.sick and self.command == "GET"):
                time.sleep(3)
            if stand_in.dies_after is not None and stand_in.asked >= stand_in.dies_after:
                self.close_connection = True
                return
            if stand_in.busy and self.command == "POST":
                stand_in.busy -= 1
                status, said = 503, {"error": "busy"}
            else:
                body = json.loads(text) if text and text != b"null" else None
                status, said = stand_in.answer(self.command, self.path, body)
            reply = b"" if said is None else (said if isinstance(said, str) else json.dumps(said)).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_):
            pass

        def handle_one_request(self):
            try:
                super().handle_one_request()
            except ConnectionError:  # who asked waits no longer
                self.close_connection = True

    server = ThreadingHTTPServer((host, port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{host}:{server.server_port}"
    finally:
        with stand_in.turn:
            stand_in.closed = True
            stand_in.turn.notify_all()
        server.shutdown()
        server.server_close()
        thread.join()
