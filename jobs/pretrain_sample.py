"""What the model in training writes behind every validation, sampled as the evaluate stage does."""

from collections.abc import Sequence
from dataclasses import dataclass

from gpt_core.model.decoder import Decoder
from gpt_core.recipe import Evaluate, Recipe
from gpt_core.tokenizer.tokenizer import Tokenizer
from gpt_core.training.engine import Engine
from jobs.evaluate import encode_prompts, write_samples


@dataclass(frozen=True)
class Sampler:
    """The engine's own decoder and what it shall go on from."""

    decoder: Decoder
    tokenizer: Tokenizer
    settings: Evaluate
    prompts: Sequence[Sequence[int]]

    @classmethod
    def of_recipe(cls, recipe: Recipe, decoder: Decoder, tokenizer: Tokenizer) -> "Sampler | None":
        """None where the recipe wants no samples. Raises UserError for a prompt that fills the context."""
        tokens = recipe.tracking.sample_tokens
        if not tokens or not recipe.evaluate.prompts:
            return None
        settings = recipe.evaluate.model_copy(update={"prompts": recipe.evaluate.prompts[:1], "sample_tokens": tokens})
        first = recipe.model_copy(update={"evaluate": settings})
        prompts = encode_prompts(first, tokenizer, context_length=decoder.config.context_length)
        return cls(decoder, tokenizer, settings, prompts)

    @property
    def prompt(self) -> str:
        """The text that every sample goes on from."""
        return self.settings.prompts[0]

    def write(self, engine: Engine) -> str | None:
        """The text behind the prompt, on rank 0; None elsewhere. Every rank must call.

        No weight moves, and the numbers drawn are the sampler's own: the training goes on as if nothing had been. Where
        ranks share out the weights, rank 0 samples on its CPU from a copy, as at the end of the training: to gather
        them on a GPU would take the memory that they were shared out to save.
        """
        decoder = self.decoder
        if not engine.whole:
            weights = engine.weights()
            if engine.rank == 0:
                decoder = Decoder(self.decoder.config)
                ours = {name.removeprefix("model.decoder."): value for name, value in weights.items()}
                decoder.load_state_dict(ours, assign=True)
        if engine.rank:
            return None
        (sample,) = write_samples(decoder, self.tokenizer, self.settings, self.prompts)
        return sample["text"]
