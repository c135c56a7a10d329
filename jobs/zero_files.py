"""DeepSpeed's checkpoint files: collected without writing them, and read by any number of ranks at any ZeRO stage.

Beside DeepSpeed's own files every rank leaves `layout-{rank}.json`: which elements of which parameter stand where in
its vectors. Ranks of the same layout load their files as they stand. Others put together what they would have written
themselves, from all ranks' files, of which they map all and read what they need; DeepSpeed loads that from memory.
Its own converter fails between stage 3 and the others, knows no stage 0 and writes everything twice.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import torch
from deepspeed.checkpoint.constants import (
    BASE_OPTIMIZER_STATE,
    FP32_FLAT_GROUPS,
    FROZEN_PARAM_FRAGMENTS,
    MODEL_FILE_SUFFIX,
    OPTIM_FILE_SUFFIX,
    OPTIMIZER_STATE_DICT,
    SINGLE_PARTITION_OF_FP32_GROUPS,
)
from deepspeed.runtime.checkpoint_engine.checkpoint_engine import CheckpointEngine
from torch import Size, Tensor

from gpt_core.errors import ArtifactError

TAG = "zero"  # the folder of DeepSpeed's files inside a checkpoint
WEIGHTS = "fp32"  # beside the names of the optimizer's states
FROZEN = -1  # in the place of a vector's number: what does not learn stands in the model's file, under its name

State = Mapping[str, Any]  # of an optimizer: tensors with a number for each element, and others


class FilesInMemory(CheckpointEngine):  # type: ignore[misc]
    """Keeps what DeepSpeed wants to write; gives back what is `served` by the end of a name, else what is on disk."""

    def __init__(self) -> None:
        self.written: dict[Path, Any] = {}
        self.served: dict[str, Any] = {}

    def create(self, info: object) -> None:
        """Nothing is to be prepared,"""

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """nor any folder made."""

    def save(self, state_dict: object, path: str) -> None:
        """The file is kept as the live object that it is."""
        self.written[Path(path)] = state_dict

    def load(self, path: str, map_location: Any = None) -> Any:
        """The file's object."""
        for suffix, value in self.served.items():
            if path.endswith(suffix):
                return value
        return torch.load(path, map_location=map_location, weights_only=False)

    def commit(self, info: object) -> bool:  # noqa: ARG002
        """Nothing is to be completed."""
        return True


@dataclass(frozen=True)
class Fragment:
    """`numel` elements of a parameter, from its `start`: at `offset` in the rank's vector number `vector`.

    What does not learn and is whole on every rank is rank 0's.
    """

    vector: int
    start: int
    offset: int
    numel: int


@dataclass(frozen=True)
class Layout:
    """What one rank holds. `optimizer` is DeepSpeed's class, which gives its files their form."""

    zero_stage: int
    world_size: int
    optimizer: str
    fragments: Mapping[str, Fragment]

    @classmethod
    def of_engine(cls, engine: Any) -> Self:
        """The layout of this rank of a live engine."""
        fragments = {name: fragment for name, fragment in _live_fragments(engine) if fragment.numel}
        return cls(engine.zero_optimization_stage(), engine.world_size, type(engine.optimizer).__name__, fragments)

    @classmethod
    def read(cls, path: Path) -> Self:
        """What a rank left in a checkpoint."""
        tree = json.loads(path.read_text(encoding="utf-8"))
        return cls(**tree | {"fragments": {name: Fragment(**each) for name, each in tree["fragments"].items()}})

    @property
    def learning(self) -> dict[str, Fragment]:
        """What the optimizer has."""
        return {name: part for name, part in self.fragments.items() if part.vector != FROZEN}

    def to_json(self) -> str:
        """The same layout has the same text."""
        return json.dumps(asdict(self))


def layout_file(rank: int) -> str:
    """Where a rank's layout stands in a checkpoint."""
    return f"layout-{rank}.json"


def collect_files(engine: Any, memory: FilesInMemory) -> dict[str, Any]:
    """Path in a checkpoint -> the live object, or the text, that this rank has to write. Every rank must call."""
    with TemporaryDirectory() as scratch:  # for the scripts that DeepSpeed puts beside its files
        engine.save_checkpoint(scratch, tag=TAG, save_latest=False)
        files = {path.relative_to(scratch).as_posix(): value for path, value in memory.written.items()}
    memory.written = {}
    return files | {layout_file(engine.global_rank): Layout.of_engine(engine).to_json()}


def load_files(engine: Any, memory: FilesInMemory, folder: Path) -> None:
    """The engine, which has made no step yet, stands where the one stood that wrote the folder. Every rank must call.

    Raises ArtifactError on all ranks, before anything is loaded, where the parameters are others.
    """
    layout = Layout.of_engine(engine)
    own = folder / layout_file(engine.global_rank)
    if own.exists() and Layout.read(own) == layout:
        engine.load_checkpoint(str(folder), tag=TAG)
        return
    source = _Source(folder)
    source.require({name: _shape(value).numel() for name, value in engine.module.named_parameters()})
    prefix = f"zero_pp_rank_{engine.global_rank}_" if layout.zero_stage == 3 else ""
    with TemporaryDirectory() as scratch:
        place = Path(scratch) / TAG / f"{prefix}mp_rank_00{MODEL_FILE_SUFFIX}"
        place.parent.mkdir()
        place.touch()  # DeepSpeed looks for the name before it asks for the file
        memory.served = {
            MODEL_FILE_SUFFIX: _model_file(engine, layout, source),
            OPTIM_FILE_SUFFIX: {OPTIMIZER_STATE_DICT: _optimizer_file(engine, layout, source)},
        }
        try:
            engine.load_checkpoint(scratch, tag=TAG)
        finally:
            memory.served = {}


class _Source:
    """The files of a checkpoint of any layout, mapped into memory, element by element."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        first = Layout.read(folder / layout_file(0))
        ranks = first.world_size if first.zero_stage else 1  # without ZeRO all ranks hold the same
        self._layouts = [first, *(Layout.read(folder / layout_file(rank)) for rank in range(1, ranks))]

    @cached_property
    def model(self) -> dict[str, Any]:
        """What stands beside the optimizer: buffers, counters and, below stage 3, the weights."""
        return self._open(f"*mp_rank_00{MODEL_FILE_SUFFIX}")

    @cached_property
    def _frozen(self) -> list[Mapping[str, Tensor]]:
        """Of each rank: its parts of what does not learn."""
        if self._layouts[0].zero_stage < 3:
            return [self.model["module"]] * len(self._layouts)
        names = (f"zero_pp_rank_{rank}_mp_rank_00{MODEL_FILE_SUFFIX}" for rank in range(len(self._layouts)))
        return [self._open(name)[FROZEN_PARAM_FRAGMENTS] for name in names]

    @cached_property
    def _ranks(self) -> list[tuple[Sequence[Tensor], Mapping[int, State]]]:
        """Of each rank: its vectors of weights, and the optimizer's states of each."""
        if self._layouts[0].zero_stage == 0:
            in_order = sorted(self._layouts[0].learning.items(), key=lambda item: item[1].vector)
            return [([self.model["module"][name] for name, _ in in_order], self.model["optimizer"]["state"])]
        names = (f"*zero_pp_rank_{rank}_mp_rank_00{OPTIM_FILE_SUFFIX}" for rank in range(len(self._layouts)))
        files = (self._open(name)[OPTIMIZER_STATE_DICT] for name in names)
        return [(_vectors(file), file[_base(self._layouts[0])]["state"]) for file in files]

    def _open(self, name: str) -> dict[str, Any]:
        path = min((self._folder / TAG).glob(name))
        value: dict[str, Any] = torch.load(path, mmap=True, map_location="cpu", weights_only=False)
        return value

    def require(self, numels: Mapping[str, int]) -> None:
        """Raises ArtifactError unless these are the parameters, by name and number of elements."""
        found = dict.fromkeys(numels, 0)
        for layout in self._layouts:
            for name, fragment in layout.fragments.items():
                found[name] = found.get(name, 0) + fragment.numel
        for name, numel in found.items():
            if numel != numels.get(name, 0):
                raise ArtifactError(f"it has {numel:,} elements of {name}, the model here {numels.get(name, 0):,}")

    def state_of(self, name: str) -> State:
        """The optimizer's state of the vector in which the parameter stands, or begins."""
        rank = next(rank for rank, layout in enumerate(self._layouts) if name in layout.fragments)
        state: State = self._ranks[rank][1].get(self._layouts[rank].fragments[name].vector, {})
        return state

    def read(self, out: Tensor, name: str, *, key: str, start: int) -> None:
        """`out`, a vector, holds the elements of a parameter's weights or state from `start`."""
        stop = start + out.numel()
        for rank, layout in enumerate(self._layouts):
            fragment = layout.fragments.get(name)
            if fragment is None:
                continue
            low, high = max(start, fragment.start), min(stop, fragment.start + fragment.numel)
            if low < high:
                vector = self._vector(rank, fragment, name, key)
                at = fragment.offset + low - fragment.start
                out[low - start : high - start].copy_(vector.detach().reshape(-1)[at : at + high - low])

    def _vector(self, rank: int, fragment: Fragment, name: str, key: str) -> Tensor:
        if fragment.vector == FROZEN:
            return self._frozen[rank][name]
        vectors, states = self._ranks[rank]
        vector: Tensor = vectors[fragment.vector] if key == WEIGHTS else states[fragment.vector][key]
        return vector


def _live_fragments(engine: Any) -> Iterator[tuple[str, Fragment]]:
    """What this rank holds of each parameter, as DeepSpeed notes it at each stage."""
    stage, optimizer = engine.zero_optimization_stage(), engine.optimizer
    order = {id(value): n for n, value in enumerate(p for group in optimizer.param_groups for p in group["params"])}
    for name, value in engine.module.named_parameters():
        if not value.requires_grad:
            yield name, _frozen_fragment(value, stage=stage, rank=engine.global_rank)
        elif stage == 0:
            yield name, Fragment(order[id(value)], 0, 0, value.numel())
        elif stage == 3:
            vector, offset, size = optimizer.grad_position[optimizer.get_param_id(value)]
            start = engine.global_rank * size
            yield name, Fragment(vector, start, offset, max(0, min(size, value.ds_numel - start)))
        elif value._hp_mapping is not None:
            there, here = value._hp_mapping.lp_fragment_address, value._hp_mapping.hp_fragment_address
            yield name, Fragment(value._hp_mapping.param_group_index, there.start, here.start, there.numel)


def _frozen_fragment(value: Any, *, stage: int, rank: int) -> Fragment:
    if stage < 3:
        return Fragment(FROZEN, 0, 0, 0 if rank else value.numel())
    start = rank * value.ds_tensor.ds_numel
    return Fragment(FROZEN, start, 0, max(0, min(value.ds_tensor.ds_numel, value.ds_numel - start)))


def _model_file(engine: Any, layout: Layout, source: _Source) -> dict[str, Any]:
    """The counters as they were, and the module as this rank would have written it: below stage 3 with its weights."""
    shapes = {name: _shape(value) for name, value in engine.module.named_parameters()}
    module = dict(engine.module_state_dict())
    for name, value in module.items():
        if name not in shapes:
            module[name] = source.model["module"][name]
        elif layout.zero_stage < 3:
            module[name] = torch.empty(shapes[name], dtype=value.dtype)
            source.read(module[name].view(-1), name, key=WEIGHTS, start=0)
    file = source.model | {"module": module, "dp_world_size": layout.world_size}
    file["optimizer"] = _optimizer_file(engine, layout, source) if layout.zero_stage == 0 else None
    file[FROZEN_PARAM_FRAGMENTS] = _frozen_parts(engine, layout, source) if layout.zero_stage == 3 else None
    return file


def _frozen_parts(engine: Any, layout: Layout, source: _Source) -> dict[str, Tensor]:
    """This rank's parts of what does not learn, as stage 3 keeps them."""
    named = engine.module.named_parameters()
    parts = {name: torch.zeros_like(value.ds_tensor) for name, value in named if not value.requires_grad}
    for name in parts.keys() & layout.fragments.keys():
        fragment = layout.fragments[name]
        source.read(parts[name][: fragment.numel], name, key=WEIGHTS, start=fragment.start)
    return parts


def _optimizer_file(engine: Any, layout: Layout, source: _Source) -> dict[str, Any]:
    """The optimizer as this rank would have written it."""
    file: dict[str, Any] = engine.optimizer.state_dict()
    if layout.zero_stage == 0:
        vectors = [value for group in engine.optimizer.param_groups for value in group["params"]]
        return file | {"state": _states(layout, [value.shape for value in vectors], source)}
    vectors = list(_vectors(file))  # the live ones
    with torch.no_grad():
        for name, part in layout.learning.items():
            source.read(vectors[part.vector][part.offset :][: part.numel], name, key=WEIGHTS, start=part.start)
    if layout.zero_stage < 3:  # states go with the vectors' padding, which is not written
        vectors = [value for group in engine.optimizer.param_groups for value in group["params"]]
    file[_base(layout)]["state"] = _states(layout, [value.shape for value in vectors], source)
    return file


def _states(layout: Layout, shapes: Sequence[Size], source: _Source) -> dict[int, dict[str, Any]]:
    """The optimizer's state of each vector of this rank. What has no dimension, as the steps' count, is one for all."""
    states: dict[int, dict[str, Any]] = {}
    for name, part in layout.learning.items():
        state = states.setdefault(part.vector, {})
        for key, value in source.state_of(name).items():
            if not torch.is_tensor(value) or value.ndim == 0:
                state.setdefault(key, value.clone() if torch.is_tensor(value) else value)
                continue
            vector = state.setdefault(key, torch.zeros(shapes[part.vector], dtype=value.dtype))
            source.read(vector.view(-1)[part.offset :][: part.numel], name, key=key, start=part.start)
    return states


def _base(layout: Layout) -> str:
    """Where the optimizer that DeepSpeed wraps stands in its file."""
    return str(OPTIMIZER_STATE_DICT if layout.zero_stage == 3 else BASE_OPTIMIZER_STATE)


def _vectors(file: Mapping[str, Any]) -> Sequence[Tensor]:
    """The weights in an optimizer's file, in fp32."""
    vectors: Sequence[Tensor] = file.get(FP32_FLAT_GROUPS) or file[SINGLE_PARTITION_OF_FP32_GROUPS]
    return vectors


def _shape(value: Tensor) -> Size:
    """Of a parameter, where stage 3 has taken its elements too."""
    shape: Size = getattr(value, "ds_shape", value.shape)
    return shape
