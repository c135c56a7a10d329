"""Claim: a pass masked by documents is faster than transformers' GPT-2 on the same rows.

    make bench NAME=decoder_options

One thread, 6 layers x 384, V 50,304, B 8, T 256, fp32, documents of 64 tokens at the mean: forward and backward, with
the peer in turn, medians of five. Beside it, for fp32 and bf16 autocast, what each option costs over a plain pass in
seconds and in bytes that the blocks save. `same_work` says that both losses and their embedding gradients agree.
"""

import json
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from gpt_core import recipe
from gpt_core.model.config import DecoderConfig
from gpt_core.model.decoder import Decoder
from gpt_core.model.document_mask import document_mask
from gpt_core.model.heads import LanguageModel
from gpt_core.model.hf_layout import stored_tensors

B, T, ROUNDS = 8, 256, 5
OPTIONS = {
    "plain": (False, False, 0.0),
    "document_mask": (True, False, 0.0),
    "activation_checkpointing": (False, True, 0.0),
    "z_loss": (False, False, 1e-4),
}


def main() -> None:
    """Print what each option costs, then the claim as one line of JSON."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape = recipe.Model(n_layer=6, n_head=6, n_embd=384, context_length=T)
    decoder = Decoder(DecoderConfig.from_recipe(shape, 50_257))
    decoder.init_weights(0)
    ids, targets = torch.randint(0, 50_257, (2, B, T))
    starts = torch.rand(B, T) < 1 / 64
    starts[:, 0] = True
    places = torch.arange(T)
    positions = places - torch.where(starts, places, 0).cummax(dim=1).values
    for precision in ("fp32", "autocast"):
        passes = {name: option_pass(decoder, ids, targets, positions, precision, name) for name in OPTIONS}
        seconds = time_in_turn(passes)
        for name, run in passes.items():
            print(
                f"{precision} {name}: {seconds[name]:.3f} s, {seconds[name] / seconds['plain']:.2f} of plain, "
                f"{saved_bytes(run) / 1e6:.0f} MB saved"
            )
    claim(decoder, ids, targets, positions)


def option_pass(
    decoder: Decoder, ids: Tensor, targets: Tensor, positions: Tensor, precision: str, name: str
) -> Callable[[], Tensor]:
    """A forward and backward pass with one option; it returns the nats a target."""
    masked, recompute, z_loss = OPTIONS[name]
    model = LanguageModel(decoder, z_loss=z_loss)

    def run() -> Tensor:
        decoder.activation_checkpointing = recompute
        decoder.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "autocast"):
            nats, z = model(ids, targets, positions if masked else None)
        ((nats + z_loss * z) / targets.numel()).backward()
        return nats.detach() / targets.numel()

    return run


def claim(decoder: Decoder, ids: Tensor, targets: Tensor, positions: Tensor) -> None:
    """Print the claim: our masked pass and the peer's, in turn, from the same weights."""
    config = decoder.config
    peer = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=T,
            n_embd=config.n_embd,
            n_layer=config.n_layer,
            n_head=config.n_head,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            resid_pdrop=0.0,
            attn_implementation="sdpa",
        )
    )
    ours = decoder.state_dict()
    stored = {name: t for entry in stored_tensors(config) for name, t in entry.split(ours[entry.ours]).items()}
    peer.load_state_dict(stored, strict=False)
    mask = document_mask(positions, past=0, flex=False)

    def peer_pass() -> Tensor:
        peer.zero_grad()
        logits = peer(ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        return loss.detach()

    our_pass = option_pass(decoder, ids, targets, positions, "fp32", "document_mask")
    losses = float(our_pass()), float(peer_pass())
    gradients = decoder.embedding.weight.grad, peer.transformer.wte.weight.grad
    seconds = time_in_turn({"ours": our_pass, "peer": peer_pass})
    same = (
        abs(losses[0] - losses[1]) < 1e-4 and float((gradients[0] - gradients[1]).norm() / gradients[1].norm()) < 1e-3
    )
    print(
        json.dumps(
            {
                "claim": "a pass masked by documents, against transformers' GPT-2",
                "ours": round(B * T / seconds["ours"]),
                "peer": round(B * T / seconds["peer"]),
                "ratio": round(seconds["peer"] / seconds["ours"], 2),
                "unit": "tokens/s",
                "same_work": same,
            }
        )
    )


def time_in_turn(passes: dict[str, Callable[[], Tensor]]) -> dict[str, float]:
    """The median seconds of each pass; one round first counts nothing."""
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    for number in range(ROUNDS + 1):
        for name, run in passes.items():
            started = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def saved_bytes(run: Callable[[], Tensor]) -> int:
    """Bytes of all tensors that the pass keeps for its backward half; weights and repeated ones are counted once."""
    sizes: dict[int, int] = {}
    kept = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)  # alive, so that no address comes twice
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(sizes.values())


if __name__ == "__main__":
    main()
