"""Networks that tests and benchmarks are run on, written here at their published initialisation.

`CASES` lists them with inputs of a size that two CPU cores manage in a second; `DEEP` and `HELD_OUT` hold more of them
for the benchmarks. `network("resnet18(classes=10)")` builds one of any of them from text, as rule files name them.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from tests.models import (
    amiss,
    astray,
    commonplace,
    cut_off,
    everyday,
    flattened,
    hazards,
    hearsay,
    initialisation,
    innocent,
    misplaced,
    mixed_up,
    overlooked,
    placement,
    recounted,
    relayed,
    reported,
    residual_examples,
    retold,
    rounding,
    set_against,
    spectrogram,
    starts,
    stuck,
    unasked,
    unforeseen,
    unheard,
    unsteady,
    wiring,
)
from tests.models.branched import googlenet, nf_resnet18, shufflenet_v2
from tests.models.common import ACTIVATIONS
from tests.models.convnext import convnext_tiny
from tests.models.deit import deit_distilled
from tests.models.densenet import densenet121
from tests.models.generative import dcgan_generator, unet
from tests.models.inception import inception_v3
from tests.models.mixer import mlp_mixer, swin
from tests.models.mlp import mlp
from tests.models.mobilenet import efficientnet_b0, mobilenet_v1, mobilenet_v2, mobilenet_v3_small
from tests.models.modern_bert import rotary_encoder
from tests.models.moe import moe_decoder
from tests.models.plain import plain_conv, plain_mlp, residual_conv
from tests.models.poolformer import poolformer_s12
from tests.models.recurrent import alibi_decoder, gru_lm, lstm_lm
from tests.models.regnet import regnet_y_400mf
from tests.models.repvgg import repvgg_a0
from tests.models.resnet import (
    preact_resnet18,
    resnet18,
    resnet50,
    resnet101,
    resnext50,
    se_resnet18,
    wide_resnet50,
)
from tests.models.side_by_side import a_bad, a_double, a_ok, b_bad, b_ok, c_bad, c_ok, d_bad, e_bad
from tests.models.t5 import t5
from tests.models.transformer import bert, gpt2, llama
from tests.models.vgg import vgg11, vgg11_bn, vgg16, vgg16_bn
from tests.models.vit import vit


@dataclass(frozen=True)
class Case:
    """A network with inputs to run it on.

    Attributes:
        name: the builder's name, or one of its variants.
        build: makes the module; takes the builder's keyword parameters. Draws from torch's global generator.
        shape: of the input, batch first.
        vocabulary: number of token ids for a network that reads tokens, None for one that reads N(0, 1) numbers.
        others: shapes of further inputs of N(0, 1) numbers.
    """

    name: str
    build: Callable[..., nn.Module]
    shape: tuple[int, ...]
    vocabulary: int | None = None
    others: tuple[tuple[int, ...], ...] = ()

    def module(self, seed: int = 0, **options: object) -> nn.Module:
        """The network in training mode, its weights drawn from `seed`; torch's generator is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.build(**options).train()

    def example_inputs(self, seed: int = 0) -> tuple[Tensor, ...]:
        """Inputs for the network, drawn from `seed`."""
        generator = torch.Generator().manual_seed(seed)
        if self.vocabulary is not None:
            return (torch.randint(self.vocabulary, self.shape, generator=generator),)
        return tuple(torch.randn(shape, generator=generator) for shape in (self.shape, *self.others))


def _cases() -> dict[str, Case]:
    image, small, plane = (8, 3, 64, 64), (4, 3, 64, 64), (4, 3, 16, 16)
    found = [
        Case("mlp", mlp, (64, 256)),
        Case("vgg11", vgg11, image),
        Case("vgg11_bn", vgg11_bn, image),
        Case("vgg16", vgg16, small),
        Case("vgg16_bn", vgg16_bn, image),
        Case("resnet18", resnet18, image),
        Case("resnet18_zero", partial(resnet18, zero_init_residual=True), image),
        Case("resnet50", resnet50, image),
        Case("resnet50_zero", partial(resnet50, zero_init_residual=True), image),
        Case("preact_resnet18", preact_resnet18, image),
        Case("resnext50", resnext50, image),
        Case("se_resnet18", se_resnet18, image),
        Case("densenet121", densenet121, image),
        Case("mobilenet_v1", mobilenet_v1, image),
        Case("mobilenet_v2", mobilenet_v2, image),
        Case("mobilenet_v3_small", mobilenet_v3_small, image),
        Case("efficientnet_b0", efficientnet_b0, image),
        Case("convnext_tiny", convnext_tiny, small),
        Case("convnext_tiny_scaled", partial(convnext_tiny, layer_scale=1.0), small),
        Case("vit", vit, small),
        Case("vit_mean", partial(vit, pool="mean"), small),
        Case("vit_spelled", partial(vit, fused=False), small),
        Case("vit_zero_head", partial(vit, head_std=0.0), small),
        Case("mlp_mixer", mlp_mixer, small),
        Case("swin", swin, small),
        Case("gpt2", gpt2, (4, 64), vocabulary=512),
        Case("bert", bert, (4, 64), vocabulary=512),
        Case("llama", llama, (4, 64), vocabulary=512),
        Case("googlenet", googlenet, image),
        Case("shufflenet_v2", shufflenet_v2, image),
        Case("nf_resnet18", nf_resnet18, image),
        Case("unet", unet, small),
        Case("dcgan_generator", dcgan_generator, (16, 100, 1, 1)),
        Case("plain_conv", plain_conv, plane),
        Case("plain_mlp", plain_mlp, (64, 256)),
        Case("residual_conv", residual_conv, plane),
    ]
    for build in (a_bad, a_double, a_ok, b_bad, b_ok, d_bad, e_bad):
        found.append(Case(build.__name__, build, plane))
    for build in (c_bad, c_ok):
        found.append(Case(build.__name__, build, (64, 256)))
    return _by_name(found)


def _examples() -> dict[str, Case]:
    """Each builder with the shape of its input."""
    shapes: dict[Callable[..., nn.Module], tuple[int, ...]] = {
        initialisation.widening_mlp: (64, 8),
        initialisation.separable_conv: (4, 3, 16, 16),
        initialisation.decoder: (4, 64, 2, 2),
        initialisation.leaky_mlp: (64, 128),
        initialisation.shifted_mlp: (64, 128),
        initialisation.identity_mixers: (32, 64),
        initialisation.uneven_mlp: (64, 128),
        initialisation.symmetric_mlp: (64, 64),
        initialisation.subpixel: (4, 3, 8, 8),
        initialisation.cut_mlp: (64, 64),
        initialisation.half_mlp: (64, 128),
        initialisation.scaled_attention: (8, 32, 128),
        initialisation.conditioned_mlp: (64, 64),
        innocent.graph_network: (8, 24, 16),
        innocent.masked_attention: (4, 32, 64),
        innocent.scaled_sums: (16, 64),
        innocent.conv_lstm: (2, 6, 3, 8, 8),
        innocent.linear_branches: (8, 16, 8, 8),
        innocent.spectral_discriminator: (4, 3, 16, 16),
        innocent.trained_units: (64, 64),
        innocent.decayed_solve: (2, 16, 32),
        innocent.named_layers: (4, 3, 12, 12),
        innocent.edged_rows: (8, 6, 8),
        innocent.padded_offsets: (4, 12, 16),
        innocent.windowed_image: (8, 12, 8),
        innocent.soft_histogram: (16, 16),
        innocent.empty_sum: (8, 6, 16),
        placement.unit_gain_chain: (64, 128),
        placement.saturated_units: (64, 128),
        placement.silent_layers: (64, 128),
        placement.excited_maps: (4, 3, 16, 16),
        placement.bounded_shares: (64, 64),
        placement.actor: (64, 16),
        placement.straight_layers: (64, 64),
        placement.selu_layers: (64, 128),
        placement.normed_weights: (64, 128),
        placement.normalized_chain: (64, 128),
        placement.bounded_trunk: (8, 16, 8, 8),
        placement.normalized_sums: (8, 16, 8, 8),
        placement.standardized_convs: (8, 16, 8, 8),
        placement.centred_layers: (64, 128),
        placement.normalized_convs: (8, 16, 8, 8),
        placement.few_values: (4, 16, 8, 8),
        placement.rooted: (16, 32),
        placement.transformer_stack: (4, 16, 64),
        residual_examples.dense: (16, 32),
        residual_examples.forks: (16, 64),
        residual_examples.plain_unet: (8, 3, 16, 16),
        residual_examples.fire_modules: (8, 32, 8, 8),
        residual_examples.highway: (16, 64),
        residual_examples.gated_mlps: (16, 8, 32),
        residual_examples.gates: (4, 3, 16, 16),
        residual_examples.last_norm: (4, 3, 16, 16),
        residual_examples.narrow_mlp: (16, 16),
        residual_examples.one_layer_off: (16, 64),
        residual_examples.prenorm_mlps: (16, 8, 32),
        residual_examples.rounded: (16, 32),
        residual_examples.switched: (16, 32),
        residual_examples.scaled_shortcut: (16, 8, 32),
        residual_examples.skipinit: (16, 32),
        residual_examples.waist: (16, 128),
        hazards.causal_attention: (4, 12, 32),
        hazards.scored_mean: (4, 12, 32),
        hazards.flowing_grid: (4, 3, 16, 16),
        hazards.half_norm: (8, 64),
        hazards.rectified_regressor: (32, 16),
        hazards.root_of_layer: (16, 32),
        hazards.sine_network: (64, 2),
        hazards.small_classifier: (32, 32),
        hazards.weight_normed_branch: (16, 32),
        spectrogram.spectrogram: (4, 1024),
        reported.batch_axis_encoder: (8, 12, 32),
        reported.merged_heads: (4, 12, 32),
        reported.pooled_over_batch: (8, 12, 32),
        reported.pooled_over_one: (8, 12, 32),
        reported.scorer: (32, 16),
        reported.classes: (32, 16),
        reported.rectified_logits: (32, 16),
        reported.copied_features: (16, 16),
        reported.encoder_without_gradient: (8, 3, 16, 16),
        reported.unit_features: (16, 16),
        reported.unit_embedding: (16, 16),
        reported.perceptual_features: (16, 16),
        reported.pooled_statistics: (8, 16, 8),
        reported.pooled_moments: (8, 16, 24),
        reported.angle: (16, 16),
        reported.neighbour_means: (24, 16),
        reported.half_squares: (16, 256),
        reported.copied_experts: (16, 32),
        reported.converted_parameter: (16, 32),
        reported.frames_classifier: (8, 12, 24),
        reported.rounded_code: (4, 3, 8, 8),
        reported.multiplied_branches: (16, 8, 32),
        reported.text_pyramid: (8, 16, 24),
        reported.contrastive: (16, 32),
        reported.plain_memory: (8, 40, 8),
        reported.growing_memory: (8, 40, 8),
        reported.exponential: (16, 16),
        reported.norms_plus_one: (4, 16, 64),
        reported.norms_of_zeros: (4, 16, 64),
        reported.zero_gated: (16, 32),
        reported.drawn_about: (16, 96),
        reported.hard_choice: (16, 16),
        reported.no_shortcuts: (4, 3, 12, 12),
        reported.lone_output: (32, 48),
        reported.scaled_residuals: (4, 3, 12, 12),
        reported.summed_messages: (2, 32, 16),
        reported.neighbourhoods: (48, 32),
        reported.bounded_classes: (32, 16),
        reported.leaking_decoder: (4, 12, 32),
        reported.latent_attention: (8, 12, 64),
        reported.constant_start: (16, 16),
        reported.normalised_vector: (8, 3, 16, 16),
        reported.utterance_norm: (8, 12, 32),
        mixed_up.asking_queries: (4, 12, 32),
        mixed_up.induced_set: (4, 16, 32),
        mixed_up.hidden_positions: (4, 12, 32),
        mixed_up.last_states: (6, 10, 24),
        mixed_up.row_scores: (16, 16),
        mixed_up.patches: (4, 3, 16, 16),
        mixed_up.dueling_values: (16, 8),
        mixed_up.both_directions: (8, 12, 16),
        mixed_up.last_sample: (8, 12, 16),
        mixed_up.whole_norm: (4, 12, 32),
        cut_off.sampled_code: (16, 16),
        cut_off.chosen_inputs: (16, 16),
        cut_off.routed_experts: (16, 32),
        cut_off.straight_codes: (16, 16),
        cut_off.quantised_codes: (16, 16),
        cut_off.replaced_head: (16, 32),
        cut_off.late_layer: (16, 32),
        cut_off.sampled_weights: (16, 32),
        cut_off.stacked_blocks: (16, 32),
        cut_off.stepped_cell: (8, 6, 16),
        cut_off.sums_of_two: (4, 3, 12, 12),
        cut_off.joined_scales: (4, 3, 16, 16),
        cut_off.overwritten: (16, 32),
        cut_off.query_for_key: (4, 12, 32),
        cut_off.named_keys: (4, 12, 32),
        flattened.leaky_classifier: (16, 32),
        flattened.normalised_classifier: (16, 32),
        flattened.dropped_units: (16, 32),
        flattened.gated_layers: (16, 32),
        flattened.softmax_layers: (16, 32),
        flattened.rectified_score: (16, 32),
        flattened.cosine_classes: (16, 32),
        flattened.turned_features: (16, 64),
        flattened.tempered_pairs: (16, 32),
        flattened.scaled_pairs: (16, 32),
        flattened.gated_memory: (8, 40, 16),
        rounding.squashed_action: (16, 16),
        rounding.written_losses: (16, 16),
        rounding.all_distances: (4, 12, 16),
        rounding.reduced_units: (16, 16),
        set_against.hypernetwork: (16, 64),
        set_against.own_norms: (16, 64),
        set_against.sequence_classifier: (8, 24, 32),
        set_against.soft_lookup: (16, 32),
        set_against.spatial_transformer: (8, 1, 16, 16),
        starts.state_space: (4, 24, 16),
        starts.learnt_queries: (4, 12, 32),
        starts.constant_memory: (8, 12, 16),
        starts.small_memory: (8, 24, 16),
        starts.empty_background: (16, 16),
        starts.selu_at_default: (16, 64),
        starts.wide_variance: (16, 16),
        wiring.attention_factor: (4, 12, 128),
        wiring.counted_loop: (16, 32),
        wiring.looped_cell: (8, 24, 16),
        wiring.stacked_critics: (16, 12),
        wiring.picked_experts: (8, 12, 16),
        wiring.learnt_slots: (3, 10, 16),
        wiring.used_weights: (16, 32),
        wiring.encoder_blocks: (16, 16),
        wiring.counted_layers: (16, 32),
        wiring.carried_state: (8, 10, 16),
        wiring.deep_norm: (16, 64),
        wiring.bounded_matte: (4, 3, 16, 16),
        wiring.graph_scores: (4, 10, 32),
        wiring.clip_frames: (2, 3, 6, 12, 12),
        wiring.single_score: (16, 16),
        wiring.spiking_units: (16, 16),
        wiring.named_branches: (16, 16),
        wiring.normalised_pool: (4, 3, 12, 12),
        wiring.power_pool: (4, 3, 12, 12),
        wiring.squeezed_blocks: (4, 3, 12, 12),
        wiring.batch_spread: (16, 16),
        wiring.residual_blocks: (4, 3, 12, 12),
        wiring.gated_residuals: (4, 3, 12, 12),
        wiring.detached_branches: (16, 16),
        wiring.gathered_parts: (4, 6, 16),
        stuck.dropped_layers: (4, 8, 8, 8),
        stuck.gates_of_zero: (16, 32),
        stuck.listed_layers: (16, 32),
        stuck.low_rank: (16, 64),
        unsteady.scaled_action: (16, 16),
        unsteady.inverse_degrees: (24, 16),
        unsteady.large_steps: (4, 12, 8),
        unsteady.growing_state: (4, 48, 8),
        unsteady.fixed_point: (16, 16),
        unsteady.multiplied_infinity: (4, 12, 32),
        unsteady.positive_infinity: (4, 12, 32),
        unsteady.resting_angles: (16, 16),
        unsteady.resting_rotation: (16, 16),
        unsteady.quaternion: (16, 16),
        unsteady.spectral_zero: (16, 16),
        unsteady.flow_scales: (64, 16),
        unsteady.coupled_halves: (64, 8),
        unsteady.elu_kernel: (4, 16, 32),
        unsteady.half_memory: (2, 2048, 64),
        unsteady.cluster_sizes: (16, 16),
        unsteady.decomposed_adapter: (16, 16),
        unsteady.summed_objectness: (2, 3, 96, 96),
        unheard.read_again: (4, 3, 8, 8),
        unheard.excited_pixels: (4, 3, 8, 8),
        unheard.tiny_steps: (4, 12, 8),
        unheard.density: (32, 16, 3),
        unheard.shut_thresholds: (16, 16),
        unheard.wide_posterior: (16, 16),
        unheard.radial_units: (32, 64),
        unheard.raw_ctc: (4, 20, 8),
        unheard.normalised_gate: (16, 16),
        unheard.distilled: (32, 16),
        unheard.blank_memory: (4, 5, 8),
        unasked.learnt_threshold: (64, 32),
        unasked.blended_branches: (64, 16),
        unasked.fused_scales: (4, 3, 16, 16),
        unasked.turned_estimator: (64, 16),
        unasked.mixed_channels: (64, 8),
        unasked.hyperbolic_places: (64, 16),
        unasked.learnt_metric: (64, 8),
        unasked.transported_points: (8, 16, 4),
        unasked.brightened_images: (4, 3, 8, 8),
        unasked.forward_sums: (8, 6, 8),
        unasked.coarse_weights: (64, 16),
        unasked.binary_weights: (64, 16),
        misplaced.short_reach: (8, 4, 64),
        misplaced.early_strides: (8, 3, 16, 16),
        misplaced.doubled_skip: (4, 3, 16, 16),
        misplaced.rolled_samples: (8, 12, 4),
        misplaced.reversed_samples: (8, 12, 4),
        misplaced.noise_schedule: (32, 16),
        misplaced.masked_order: (32, 8),
        misplaced.single_expert: (32, 16),
        misplaced.detached_adversary: (32, 4),
        misplaced.squashed_cell: (8, 40, 4),
        misplaced.leaky_units: (8, 20, 4),
        misplaced.half_positions: (4, 512, 4),
        misplaced.spline_grid: (32, 8),
        overlooked.rotary_pairs: (8, 24, 8),
        overlooked.hidden_nan: (16, 12, 8),
        overlooked.own_distances: (8, 10, 8),
        overlooked.misplaced_forget: (8, 60, 4),
        overlooked.decay_products: (8, 100, 4),
        overlooked.joined_samples: (24, 16),
        overlooked.plain_last_stage: (4, 8, 16, 16),
        overlooked.shared_experts: (2, 16, 8),
        overlooked.unmixed_channels: (8, 16, 8, 8),
        overlooked.standardised_alone: (8, 3, 8, 8),
        unforeseen.summed_attention: (8, 64, 8),
        unforeseen.unscaled_spectrum: (16, 64),
        unforeseen.deep_floor: (16, 16),
        unforeseen.summed_logits: (16, 16),
        unforeseen.any_of_many: (8, 128, 4),
        unforeseen.shares_over_points: (8, 1, 12, 12),
        unforeseen.wild_frequencies: (32, 2),
        unforeseen.gated_by_time: (16, 12, 4),
        unforeseen.largest_of_all: (16, 16),
        unforeseen.own_likeness: (16, 16),
        unforeseen.inverse_of_any: (16, 16),
        unforeseen.equal_offsets: (8, 16, 4),
        unforeseen.shut_hard_gate: (16, 16),
        unforeseen.padded_behind: (8, 24, 4),
        unforeseen.clamped_weights: (16, 16),
        unforeseen.convex_layers: (16, 8),
        unforeseen.one_gate: (8, 16, 4),
        everyday.wave_classes: (8, 1, 256),
        everyday.pixel_classes: (4, 3, 16, 16),
        everyday.single_mask: (4, 3, 16, 16),
        everyday.action_values: (8, 4, 16, 16),
        everyday.image_generator: (8, 16, 1, 1),
        everyday.straight_convolutions: (8, 2, 8, 8),
        everyday.constant_dropout: (32, 20),
        everyday.equal_filters: (8, 1, 16, 16),
        everyday.small_weights: (4, 3, 16, 16),
        everyday.large_weights: (32, 30),
        everyday.detached_state: (8, 8, 3),
        everyday.copied_factor: (32, 16),
        everyday.hard_mask: (4, 1, 12, 12),
        commonplace.forecast_axis: (8, 12, 3),
        commonplace.series_codes: (8, 16, 2),
        commonplace.complete_graph: (8, 10, 8),
        commonplace.grown_residuals: (4, 1, 32),
        commonplace.random_state: (8, 8, 2),
        commonplace.normalised_logits: (32, 16),
        commonplace.normalised_prices: (32, 16),
        commonplace.rectified_code: (16, 1, 8, 8),
        commonplace.rectified_memory: (8, 60, 2),
        commonplace.lost_activation: (8, 12, 16),
        commonplace.summed_neighbours: (8, 24, 8),
        commonplace.dropped_nearly: (32, 20),
        innocent.response_norms: (4, 3, 8, 8),
        innocent.nested_sums: (4, 3, 8, 8),
        innocent.reversible_halves: (8, 32),
        innocent.masked_pooling: (4, 32, 12),
        innocent.spline_units: (16, 12),
        innocent.complex_sum: (8, 32),
        innocent.pooled_twice: (4, 3, 8, 8),
        innocent.field_scores: (8, 12, 16),
        innocent.widened_shortcut: (4, 4, 8, 8),
        innocent.factor_scores: (16, 16),
        astray.heads_of_token: (8, 16, 8),
        astray.spelled_attention: (8, 12, 8),
        astray.stacked_memory: (8, 16, 4),
        astray.lost_memory: (8, 16, 3),
        astray.features_mean: (8, 24, 8),
        astray.pooled_features: (8, 3, 64),
        astray.unshuffled_pixels: (4, 3, 8, 8),
        astray.viewed_columns: (8, 1, 8, 24),
        astray.swapped_back: (6, 10, 12),
        astray.viewed_boxes: (4, 3, 24, 24),
        amiss.coded: (32, 64),
        amiss.crossed_clamp: (32, 8),
        amiss.shared_norm: (8, 3, 8, 8),
        amiss.forgotten_chain: (32, 12),
        amiss.hand_shares: (8, 12, 8),
        amiss.own_state: (8, 10, 3),
        amiss.rewrapped_weights: (32, 12),
        amiss.fixed_zero: (32, 12),
        astray.unbatched_rows: (32, 8),
        retold.squashed_actions: (16, 6),
        retold.unit_words: (8, 6, 16),
        retold.normalised_poses: (8, 12, 6),
        retold.untold_shares: (8, 12, 8),
        retold.few_channels: (4, 1, 8, 8),
        retold.computed_twice: (8, 3, 16),
        retold.copied_blocks: (4, 6, 16),
        retold.plain_keys: (16, 24),
        relayed.fitting_pairs: (16, 12),
        relayed.noisy_values: (16, 8),
        relayed.wave_values: (8, 1, 24),
        relayed.averaged_logits: (8, 12, 8),
        hearsay.grown_volumes: (16, 6),
        hearsay.edge_shares: (4, 8, 6),
        hearsay.admitted_numbers: (8, 8, 2),
        hearsay.box_widths: (16, 8),
        recounted.moved_picture: (4, 2, 8, 8),
        recounted.shut_highway: (16, 16),
        recounted.stochastic_depth: (8, 6),
        recounted.bound_of_code: (16, 12),
    }
    found = [Case(build.__name__, build, shape) for build, shape in shapes.items()]
    found.append(Case("few_values_pair", placement.few_values, (2, 16, 8, 8)))
    found.append(Case("unread_condition", reported.unread_condition, (16, 16), others=((16, 8),)))
    found.append(Case("squared_error", mixed_up.squared_error, (16, 8), others=((16,),)))
    for build, size, words in (
        (everyday.intent_scores, 10, 64),
        (everyday.listed_tables, 4, 50),
        (commonplace.viewed_tags, 12, 40),
        (commonplace.raw_tokens, 10, 500),
        (commonplace.inverted_padding, 12, 40),
        (commonplace.factor_mask, 16, 32),
        (astray.unturned_back, 14, 20),
        (astray.half_rotary, 24, 12),
        (astray.causal_first, 24, 12),
        (amiss.summed_batch, 6, 12),
        (astray.multiplied_codes, 16, 12),
        (innocent.counted_words, 12, 32),
        (relayed.padded_words, 12, 12),
        (hearsay.short_table, 24, 8),
    ):
        found.append(Case(build.__name__, build, (8, size), vocabulary=words))
    found.append(Case("molecule_labels", everyday.molecule_labels, (8, 12, 8), others=((8, 12, 12),)))
    found.append(Case("sample_weights", commonplace.sample_weights, (16, 12), others=((16,), (16,))))
    found.append(Case("multiplied_temperature", commonplace.multiplied_temperature, (16, 24), others=((16, 24),)))
    found.append(Case("policy_ratio", astray.policy_ratio, (16, 6), others=((16, 4), (16,), (16,))))
    for build, shape, other in (
        (retold.lost_bend, (8, 6, 4), (8, 6, 6)),
        (retold.stale_state, (8, 6), (8, 5, 3)),
        (retold.mixture_shares, (16, 4), (16, 1)),
        (retold.length_of_all, (16, 16), (16, 16)),
        (retold.mask_of_all, (8, 12, 8), (8, 12)),
        (retold.teacher_again, (16, 8), (16, 4)),
        (retold.hard_dice, (4, 1, 8, 8), (4, 8, 8)),
        (retold.loss_beside, (8, 8), (8, 5)),
        (relayed.plain_energies, (8, 6, 10), (8, 6)),
        (relayed.balanced_experts, (8, 6, 8), (8, 6)),
    ):
        found.append(Case(build.__name__, build, shape, others=(other,)))
    found.append(Case("fitted_critic", hearsay.fitted_critic, (16, 8), others=((16, 4), (16,))))
    found.append(Case("clipped_policy", recounted.clipped_policy, (16, 8), others=((16, 4), (16,), (16,))))
    found.append(Case("hidden_domain", recounted.hidden_domain, (16, 8)))
    found.append(Case("scored_beside", recounted.scored_beside, (16, 8), others=((16, 4),)))
    found.append(Case("mean_error", recounted.mean_error, (16, 8), others=((16, 4),)))
    found.append(Case("dropped_from_zero", recounted.dropped_from_zero, (8, 3, 8, 8)))
    found.append(Case("margins", recounted.margins, (16, 8)))
    found.append(Case("turned_keys", recounted.turned_keys, (16, 8, 8)))
    found.append(Case("followed", recounted.followed, (16, 8), others=((16, 8),)))
    found.append(Case("sorted_back", recounted.sorted_back, (8, 5, 6), others=((8,),)))
    found.append(Case("focal_error", recounted.focal_error, (16, 8), others=((16, 2),)))
    found.append(Case("unmet_triplets", relayed.unmet_triplets, (16, 8), others=((16, 8), (16, 8))))
    found.append(Case("plain_tensor", amiss.plain_tensor, (16, 6), others=((16, 6),)))
    found.append(Case("coded_tokens", mixed_up.coded_tokens, (6, 12), vocabulary=64))
    for build in (starts.drawn_norms, starts.swapped_norms, starts.zero_tokens, starts.learnt_places):
        found.append(Case(build.__name__, build, (4, 12), vocabulary=64))
    found.append(Case("loud_head", starts.loud_head, (4, 16), vocabulary=256))
    found.append(Case("tied_head", starts.tied_head, (4, 16), vocabulary=256))
    found.append(Case("twin_critics", starts.twin_critics, (16, 8), others=((16, 4),)))
    found.append(Case("film", starts.film, (16, 16), others=((16, 8),)))
    found.append(Case("step_code", wiring.step_code, (4, 3, 12, 12), others=((4, 8),)))
    found.append(Case("own_scores", wiring.own_scores, (16, 16), others=((16, 6),)))
    found.append(Case("own_loss", wiring.own_loss, (16, 8), others=((16,),)))
    found.append(Case("mixture_density", unsteady.mixture_density, (16, 16), others=((16, 64),)))
    found.append(Case("lost_mask", unasked.lost_mask, (8, 12), vocabulary=16))
    found.append(Case("equal_codes", misplaced.equal_codes, (8, 12), vocabulary=16))
    found.append(Case("cosine_attention", misplaced.cosine_attention, (8, 24), vocabulary=16))
    found.append(Case("branch_first", innocent.branch_first, (8, 12), vocabulary=64))
    found.append(Case("likelihood", unasked.likelihood, (16, 16), others=((16, 5),)))
    found.append(Case("half_mask", unasked.half_mask, (8, 12), vocabulary=16))
    found.append(Case("dirichlet_policy", unasked.dirichlet_policy, (32, 8), others=((32, 5),)))
    found.append(Case("weighted_tasks", unasked.weighted_tasks, (32, 16), others=((32, 4), (32, 4))))
    found.append(Case("paired_candidates", misplaced.paired_candidates, (8, 8), others=((8, 5, 8),)))
    found.append(Case("drawn_positions", misplaced.drawn_positions, (8, 12), vocabulary=16))
    found.append(Case("steep_frequencies", overlooked.steep_frequencies, (16, 4), others=((16,),)))
    found.append(Case("floored_frequencies", overlooked.floored_frequencies, (16, 4), others=((16,),)))
    found.append(Case("bounded_table", overlooked.bounded_table, (16, 6), vocabulary=64))
    found.append(Case("classes_over_time", unforeseen.classes_over_time, (8, 12), vocabulary=32))
    found.append(Case("sloped_attention", misplaced.sloped_attention, (8, 24), vocabulary=16))
    found.append(Case("turned_heads", unheard.turned_heads, (4, 16), vocabulary=32))
    found.append(Case("step_rows", unheard.step_rows, (16, 16), others=((16,),)))
    found.append(Case("flow_times", unheard.flow_times, (16, 16), others=((16,),)))
    found.append(Case("siamese_views", unheard.siamese_views, (32, 16), others=((32, 16),)))
    found.append(Case("tower_scores", unheard.tower_scores, (32, 16), others=((32, 8),)))
    found.append(Case("divided_pixels", unheard.divided_pixels, (8, 3, 8, 8), vocabulary=256))
    found.append(Case("zero_controls", unheard.zero_controls, (16, 16), others=((16, 8),)))
    found.append(Case("frozen_places", unheard.frozen_places, (4, 12), vocabulary=64))
    found.append(Case("factor_machine", unheard.factor_machine, (32, 20), vocabulary=500))
    found.append(Case("negative_features", unheard.negative_features, (32, 16), others=((32, 8),)))
    found.append(Case("token_decoder", reported.token_decoder, (4, 12), vocabulary=64))
    found.append(Case("token_codes", set_against.token_codes, (4, 32), vocabulary=512))
    found.append(Case("token_mlp", initialisation.token_mlp, (4, 32), vocabulary=512))
    return _by_name(found)


def _deep() -> dict[str, Case]:
    found = []
    for activation in ACTIVATIONS:
        if activation == "identity":
            continue
        for depth in (50, 100):
            options = {"activation": activation, "depth": depth, "init": "critical"}
            found.append(Case(f"plain_mlp_{activation}_{depth}", partial(plain_mlp, **options), (64, 256)))
            found.append(Case(f"plain_conv_{activation}_{depth}", partial(plain_conv, **options), (4, 3, 16, 16)))
    return _by_name(found)


def _by_name(cases: Iterable[Case]) -> dict[str, Case]:
    """The cases by name.

    Raises:
        ValueError: two have one name: one of them would be tested in the other's place.
    """
    found: dict[str, Case] = {}
    for case in cases:
        if case.name in found:
            raise ValueError(f"two networks of tests/models are called {case.name}")
        found[case.name] = case
    return found


CASES: dict[str, Case] = _cases()
"""Every fixture network that the tests run on, by name."""

DEEP: dict[str, Case] = _deep()
"""Plain stacks of 50 and 100 layers with each activation; phi is 1 where the second moment is 1, and drifts with it."""

HELD_OUT: dict[str, Case] = {
    case.name: case
    for case in (
        Case("resnet101", resnet101, (8, 3, 64, 64)),
        Case("wide_resnet50", wide_resnet50, (8, 3, 64, 64)),
        Case("inception_v3", inception_v3, (8, 3, 96, 96)),
        Case("regnet_y_400mf", regnet_y_400mf, (8, 3, 64, 64)),
        Case("repvgg_a0", repvgg_a0, (8, 3, 64, 64)),
        Case("deit_distilled", deit_distilled, (4, 3, 64, 64)),
        Case("poolformer_s12", poolformer_s12, (4, 3, 64, 64)),
        Case("poolformer_s12_scaled", partial(poolformer_s12, layer_scale=1.0), (4, 3, 64, 64)),
        Case("t5", t5, (4, 64), vocabulary=512),
        Case("moe_decoder", moe_decoder, (4, 64), vocabulary=512),
        Case("lstm_lm", lstm_lm, (4, 64), vocabulary=512),
        Case("gru_lm", gru_lm, (4, 64), vocabulary=512),
        Case("alibi_decoder", alibi_decoder, (4, 64), vocabulary=512),
        Case("rotary_encoder", rotary_encoder, (4, 64), vocabulary=512),
    )
}
"""Architectures that the analysis was not developed on; only the accuracy benchmark and its bounds run them.

Six have shown what was missing and are held out no more: repvgg_a0 (masks behind a normalised shortcut),
alibi_decoder, rotary_encoder and t5 (constant masks), lstm_lm and gru_lm (recurrent layers).
"""

EXAMPLES: dict[str, Case] = _examples()
"""Small networks with a mistake as an argument, and its correction as the default, for the tests in rule files."""

SEVEN: tuple[str, ...] = (
    "mlp",
    "vgg16",
    "vgg16_bn",
    "resnet18",
    "resnet50",
    "densenet121",
    "mobilenet_v2",
    "convnext_tiny",
    "vit",
)
"""The seven architectures (two of them in two forms) that every claim is made for."""


def network(text: str, seed: int = 0) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The module and inputs that a text like `plain_conv(depth=50, gain=0.5)` or `resnet18` names.

    Raises:
        ValueError: no such case, or arguments that are not keyword literals.
    """
    known = CASES | DEEP | HELD_OUT | EXAMPLES
    call = ast.parse(text.strip(), mode="eval").body
    name, keywords = (call.func, call.keywords) if isinstance(call, ast.Call) and not call.args else (call, [])
    if not isinstance(name, ast.Name) or name.id not in known:
        raise ValueError(f"{text!r} names no network of tests/models: one of {', '.join(sorted(known))}")
    options = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in keywords}
    case = known[name.id]
    return case.module(seed, **options), case.example_inputs(seed)
