"""Inputs by what a configuration says, in each of the forms that arguments of one name have."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gnelint.readers.inputs import parse_input
from gnelint.readers.torch.arguments import arguments
from gnelint.readers.torch.found_inputs import find_inputs

SIZES = {"hidden_size": 8, "vocab_size": 50, "patch_size": 2, "num_channels": 3, "spatial_merge_size": 2,
         "temporal_patch_size": 2, "image_size": 8, "num_mel_bins": 5, "state_dim": 6, "act_dim": 3}  # fmt: skip


class _Configured(nn.Module):
    main_input_name = "input_ids"

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(**SIZES)
        self.layer = nn.Linear(8, 8)


class _PatchesOfImages(_Configured):
    """Takes the patches of all images in a row each, and how many there are of each image."""

    def forward(self, pixel_values: Tensor, grid_thw: Tensor) -> Tensor:
        assert pixel_values.shape[1] == 3 * 2 * 2 * 2
        return pixel_values.reshape(-1, 2, 2, 24)


class _EmbeddedPatches(_Configured):
    def forward(self, hidden_states: Tensor, grid_thw: Tensor) -> Tensor:
        return self.layer(hidden_states.reshape(-1, 8))


class _Pair(_Configured):
    main_input_name = "pixel_values"

    def forward(self, pixel_values: Tensor) -> Tensor:
        batch, two, *_ = pixel_values.shape
        assert (two, pixel_values.dim()) == (2, 5)
        return pixel_values.reshape(batch, -1)


class _Codec(_Configured):
    main_input_name = "input_values"

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 4, 9, stride=4)

    def forward(self, input_values: Tensor) -> Tensor:
        assert input_values.dim() == 3
        return self.conv(input_values)


class _Decisions(_Configured):
    main_input_name = "states"

    def forward(self, states: Any = None, actions: Any = None, timesteps: Any = None) -> Tensor:
        return torch.cat([states, actions], dim=-1).sum(-1) + timesteps


class _Vectors(_Configured):
    main_input_name = "query_embeds"

    def forward(self, query_embeds: Tensor) -> Tensor:
        return self.layer(query_embeds)


class _Branching(_Configured):
    """Needs a second input, behind a branch on the values of the first."""

    def forward(self, input_ids: Any = None, decoder_input_ids: Any = None) -> Tensor:
        if int(input_ids.max()) > 5:
            return self.layer(decoder_input_ids[..., None].float().expand(-1, -1, 8))
        return self.layer(torch.zeros(2, 8))


def test_what_comes_behind_a_branch_on_values_is_fed_too() -> None:
    found = find_inputs(_Branching())
    assert found is not None
    assert found.kwargs.keys() == {"input_ids", "decoder_input_ids"}


@pytest.mark.parametrize("kind", [_PatchesOfImages, _EmbeddedPatches, _Pair, _Codec, _Decisions, _Vectors])
def test_an_argument_in_the_form_that_fits(kind: type[nn.Module]) -> None:
    module = kind()
    found = find_inputs(module)
    assert found is not None
    assert found.source == "from its configuration"
    module(*found.args, **found.kwargs)


class _Documented(nn.Module):
    """Says what it takes as packages do: by names of sizes, some of them its configuration's."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(hidden_size=12, layers=[0, 1, 2], vocab_size=9)
        self.words, self.up = nn.Embedding(9, 12), nn.Linear(36, 12)

    def forward(self, states: torch.Tensor, code_tokens: torch.Tensor, keep: torch.Tensor | None = None) -> Any:
        """Run it.

        Args:
            states (`torch.Tensor` of shape `(batch size, tokens, hidden_size * len(config.layers))`): of all.
            code_tokens (`torch.LongTensor` of shape `(batch_size, sequence_length)`): words.
            keep (`torch.BoolTensor` of shape `(batch_size, sequence_length)`, *optional*): which are left.
        """
        if keep is None:
            raise ValueError("You have to specify keep")
        return (self.up(states) + self.words(code_tokens)) * keep[..., None]


def test_what_forward_documents_is_fed() -> None:
    found = find_inputs(_Documented())
    assert found is not None
    assert {name: tuple(value.shape) for name, value in found.kwargs.items()} == {
        "states": (2, 16, 36), "code_tokens": (2, 16), "keep": (2, 16)
    }  # fmt: skip
    assert found.kwargs["code_tokens"].dtype == torch.int64
    assert found.kwargs["keep"].dtype == torch.bool


class _Misled(nn.Module):
    """Its first layer is wider than its configuration says, which only the error tells."""

    main_input_name = "hidden_states"

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(hidden_size=12)
        self.up = nn.Linear(20, 4)

    def forward(self, hidden_states: torch.Tensor) -> Any:
        return self.up(hidden_states)


def test_a_size_that_an_error_asks_for_is_tried() -> None:
    found = find_inputs(_Misled())
    assert found is not None
    assert tuple(found.kwargs["hidden_states"].shape) == (2, 16, 20)


class _Places(_Misled):
    """The first two columns of each row say where it is; the layer takes what is left."""

    def forward(self, hidden_states: torch.Tensor) -> Any:
        return self.up(hidden_states[..., 2:])


class _Stacked(_Misled):
    """Four steps beside each other are one for the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(80, 4)

    def forward(self, hidden_states: torch.Tensor) -> Any:
        return self.up(hidden_states.reshape(len(hidden_states), -1, 4 * hidden_states.shape[-1]))


@pytest.mark.parametrize(("kind", "width"), [(_Places, 22), (_Stacked, 20)])
def test_a_size_that_was_changed_on_the_way_is_found(kind: type[nn.Module], width: int) -> None:
    found = find_inputs(kind())
    assert found is not None
    assert tuple(found.kwargs["hidden_states"].shape) == (2, 16, width)


class _OfOne(_Misled):
    """Its code is written for a batch of one."""

    def forward(self, hidden_states: torch.Tensor) -> Any:
        places = torch.ones(16, 4).view(len(hidden_states), 16, 4)
        return self.up(hidden_states) + places


def test_a_batch_of_one_is_fed_where_the_code_is_written_for_it() -> None:
    found = find_inputs(_OfOne())
    assert found is not None
    assert tuple(found.kwargs["hidden_states"].shape) == (1, 16, 20)


class _Pooled(nn.Module):
    """A step of the sound for each of its features, and a mask of them."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(feature_size=12, num_mel_bins=12)
        self.embed, self.up = nn.Linear(5, 12), nn.Linear(12, 4)

    def forward(self, input_features: torch.Tensor, input_features_mask: torch.Tensor) -> Any:
        shown = self.up(input_features).masked_fill(input_features_mask[..., None] == 0, 0.0)
        return torch.cat([shown, self.up(self.embed(torch.ones(len(shown), 24, 5)))], 2)


def test_a_mask_goes_with_what_is_resized() -> None:
    found = find_inputs(_Pooled())
    assert found is not None
    assert {name: tuple(value.shape) for name, value in found.kwargs.items()} == {
        "input_features": (2, 24, 12),
        "input_features_mask": (2, 24),
    }


class _ChannelsFirst(_Configured):
    """Vectors whose steps come last."""

    main_input_name = "latents"

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(8, 4, 3)

    def forward(self, latents: Tensor) -> Tensor:
        return self.conv(latents)


def test_axes_may_be_the_other_way_round() -> None:
    found = find_inputs(_ChannelsFirst())
    assert found is not None
    assert found.kwargs["latents"].shape == (2, 8, 16)


class _Forecasting(_Configured):
    main_input_name = "past_values"

    def forward(self, past_values: Tensor, past_observed_mask: Tensor) -> Tensor:
        return (past_values * past_observed_mask).sum(1, keepdim=True) / past_observed_mask.sum(1, keepdim=True)


def test_what_was_observed_is_no_number_that_varies() -> None:
    found = find_inputs(_Forecasting())
    assert found is not None
    assert found.kwargs["past_observed_mask"].dtype is torch.bool
    assert found.kwargs["past_observed_mask"].all()


class _Paired(nn.Module):
    """Eight rows of sound make a step, beside which there has to be a step of features."""

    main_input_name = "input_values"

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(num_mel_bins=8, max_length=64, max_source_positions=8)
        self.sound, self.features = nn.Linear(64, 8), nn.Linear(8, 8)

    def forward(self, input_values: torch.Tensor, input_features: torch.Tensor) -> torch.Tensor:
        steps = self.sound(input_values.reshape(len(input_values), -1, 64))
        return torch.cat([self.features(input_features.transpose(1, 2)), steps], -1)


def test_of_two_that_do_not_fit_either_may_be_the_wrong_one() -> None:
    """The error names both lengths, and only the second is one of an input."""
    found = find_inputs(_Paired())
    assert found is not None
    _Paired()(**found.kwargs)


class _Seeing(_Configured):
    """Says in words that no size stands in what it lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.config.visual_feat_dim = 8

    def forward(self, input_ids: Tensor, visual_feats: Tensor | None = None) -> Tensor:
        """Both.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`): words.
            visual_feats (`torch.FloatTensor` of shape `(batch_size, num_visual_features, visual_feat_dim)`): seen.
        """
        if visual_feats is None:
            raise ValueError("`visual_feats` cannot be `None`")
        return self.layer(visual_feats)


def test_what_cannot_be_none_is_fed() -> None:
    found = find_inputs(_Seeing())
    assert found is not None
    assert tuple(found.kwargs["visual_feats"].shape) == (2, 16, 8)


class _OverSteps(nn.Module):
    """Says nothing of its inputs, and takes sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 3:
            raise ValueError("examples, steps and what is seen at each")
        return self.layer(x).mean(1)


def test_a_first_layer_may_be_one_of_steps() -> None:
    found = find_inputs(_OverSteps())
    assert found is not None
    assert tuple(found.args[0].shape) == (2, 16, 12)
    rows = find_inputs(nn.Sequential(nn.Linear(12, 4)))
    assert rows is not None
    assert tuple(rows.args[0].shape) == (8, 12), "rows where they are taken"


class _OfFrames(_Configured):
    """Rows of patches, and numbers that say how they lie."""

    main_input_name = None

    def forward(self, hidden_states: Tensor, height: int | None = None, width: int | None = None) -> Tensor:
        rows, columns = torch.arange(height), torch.arange(width)  # type: ignore[arg-type]
        assert len(rows) * len(columns) == hidden_states.shape[1]
        return self.layer(hidden_states)


def test_numbers_that_say_how_patches_lie_are_found_by_their_annotation() -> None:
    found = find_inputs(_OfFrames())
    assert found is not None
    assert found.kwargs["height"] * found.kwargs["width"] == found.kwargs["hidden_states"].shape[1]
    assert "height=4" in found.note


class _OfPictures(nn.Module):
    """As many vision transformers are: the first layer reads patches."""

    def __init__(self) -> None:
        super().__init__()
        self.image_size, self.layer = 24, nn.Linear(3 * 8 * 8, 4)
        self.places = nn.Parameter(torch.zeros(1, 9, 4))

    def forward(self, img: Tensor) -> Tensor:
        batch, channels, high, wide = img.shape
        patches = img.reshape(batch, channels, high // 8, 8, wide // 8, 8).permute(0, 2, 4, 3, 5, 1).flatten(1, 2)
        return self.layer(patches.flatten(2)) + self.places


class _Translating(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.others, self.layer = nn.Embedding(40, 8), nn.Embedding(30, 8), nn.Linear(8, 30)

    def forward(self, src: Tensor, tgt: Tensor) -> Tensor:
        return self.layer(self.others(tgt) + self.words(src).mean(1, keepdim=True))


class _Denoising(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.time, self.classes = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(1, 8), nn.Embedding(10, 8)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return self.conv(x) + (self.time(t.float()[:, None]) + self.classes(y))[..., None, None]


class _OfNeighbours(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 8)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        assert x.dim() > 1
        sent = self.layer(x).index_select(-2, edge_index[0])
        return torch.zeros(*x.shape[:-1], 8).index_add(-2, edge_index[1], sent)


class _ProjectedLate(nn.Module):
    """What it reads first is not the layer that it has first."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.into = nn.Linear(12, 12), nn.Linear(7, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.into(x))


@pytest.mark.parametrize("kind", [_OfPictures, _Translating, _Denoising, _OfNeighbours, _ProjectedLate])
def test_the_names_of_arguments_say_what_they_are(kind: type[nn.Module]) -> None:
    module = kind()
    found = find_inputs(module)
    assert found is not None
    assert "names of its arguments" in found.source
    assert module(*found.args).isfinite().all()


class _Unclear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, state: Tensor, horizon: Tensor) -> Tensor:
        return self.layer(state) * horizon


def test_a_name_that_says_nothing_is_not_guessed() -> None:
    assert find_inputs(_Unclear()) is None
    assert find_inputs(nn.ReLU()) is None


class Wrapper(nn.Module):
    """Hands on whatever it is called with."""

    def __init__(self, inner: nn.Module, shapes: tuple[tuple[int | None, ...], ...] = ()) -> None:
        super().__init__()
        self.inner, self.inputs = inner, [SimpleNamespace(shape=shape) for shape in shapes]

    def forward(self, *args: Tensor, **options: Tensor) -> Tensor:
        return self.inner(*args, **options)


def test_arguments_that_are_only_counted_are_given_in_order() -> None:
    specs = (parse_input("4,6"), parse_input("4,3"), parse_input("bias=5"))
    module = Wrapper(nn.Bilinear(6, 3, 5))
    found = arguments(module, None, specs[:2], "net")
    assert [tuple(each.shape) for each in found.args] == [(4, 6), (4, 3)]
    assert not found.kwargs
    assert list(arguments(module, None, specs, "net").kwargs) == ["bias"]


def test_shapes_that_a_model_declares_are_taken() -> None:
    found = find_inputs(Wrapper(nn.Linear(6, 5), ((None, 7, 6),)))
    assert found is not None
    assert tuple(found.args[0].shape[1:]) == (7, 6)
