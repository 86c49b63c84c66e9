"""Public reports of training that failed, rebuilt small: the cause is named at its place, and the correction is silent.

tests/models/reports.md says where each was reported, what people saw and what it was.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import gnelint
from gnelint.lint.finding import Finding
from tests.models import network
from tests.sampling import is_sampled, slow_unless


@dataclass(frozen=True)
class Report:
    """A mistake and its correction.

    Attributes:
        bad, good: as `tests.models.network` names them.
        rule: that names the cause.
        node: a pattern for the first node of one of its findings; "" where it is about the whole network.
        says: a pattern in its message.
        loss: what stands behind the output, where the report is about that.
    """

    bad: str
    good: str
    rule: str
    node: str
    says: str = ""
    loss: str | None = None

    def __str__(self) -> str:
        return f"{self.rule}-{self.bad}"


def changed(name: str, rule: str, node: str, says: str = "", loss: str | None = None) -> Report:
    """A network of tests/models/reported.py."""
    return Report(f"{name}(wrong=True)", name, rule, node, says, loss)


KNOWN = (
    changed("norms_plus_one", "GNE309", "scale"),
    changed("norms_of_zeros", "GNE309", "scale"),
    Report("low_rank(zeros='both')", "low_rank", "GNE507", "0.linear", "all zero and never move either"),
    Report("small_classifier(head='twice')", "small_classifier", "GNE511", "5"),
    Report("rectified_regressor(bias=-4.0)", "rectified_regressor", "GNE204", "2"),
    Report("normalized_convs(scale=0.2)", "normalized_convs", "GNE309", ""),
    Report("weight_normed_branch(zero='direction')", "weight_normed_branch", "GNE602", "last"),
    Report("causal_attention(diagonal=0)", "causal_attention", "GNE601", "matmul"),
    Report("sine_network(first='hidden')", "sine_network", "GNE209", "0"),
    Report("token_codes(scale=1.0)", "token_codes", "GNE411", "embedding"),
    changed("lone_output", "GNE204", "4"),
    changed("encoder_without_gradient", "GNE507", "image.0", "stops the gradient"),
    changed("zero_gated", "GNE403", "add", "together by 2\\^-inf"),
    changed("scaled_residuals", "GNE412", "add", "Scale the branch alone"),
    changed("drawn_about", "GNE108", "0", "have mean 0.1"),
    changed("no_shortcuts", "GNE535", "", "first.0-7, second.0-7 are blocks"),
    Report("dropped_layers(used=False)", "dropped_layers", "GNE510", "", "convs"),
    Report("hypernetwork(default=True)", "hypernetwork", "GNE116", ""),
    changed("hard_choice", "GNE507", "choose.0", "derivative of argmax"),
    Report("own_norms(power=2.0)", "own_norms", "GNE313", "0.norm"),
    Report("gates_of_zero(zeros='both')", "gates_of_zero", "GNE507", "0"),
    Report("root_of_layer(guard='behind')", "root_of_layer", "GNE604", "sqrt"),
    Report("spatial_transformer(zero=False)", "spatial_transformer", "GNE117", "theta"),
    Report("sequence_classifier(forget=0.0)", "sequence_classifier", "GNE210", "lstm"),
    Report("half_norm(epsilon=1e-12)", "half_norm", "GNE603", "scale"),
    Report("small_classifier(activation=False)", "small_classifier", "GNE512", "0"),
    changed("summed_messages", "GNE413", "reduce_sum"),
    changed("neighbourhoods", "GNE414", "linear"),
    Report("listed_layers(registered=False)", "listed_layers", "GNE509", "linear", "layers.0"),
)
"""Of the kinds of the 29 pairs that the issue gives."""

FURTHER = (
    changed("batch_axis_encoder", "GNE514", "layers.0.self_attn.attention"),
    changed("merged_heads", "GNE513", "0.reshape", "an axis of 12"),
    changed("pooled_over_batch", "GNE514", "softmax"),
    changed("pooled_over_one", "GNE507", "score", "runs over a single entry"),
    changed("scorer", "GNE516", "2", "applies its own sigmoid", "bce_with_logits"),
    changed("classes", "GNE516", "2", "applies its own log-softmax", "cross_entropy"),
    changed("rectified_logits", "GNE518", "2"),
    changed("copied_features", "GNE507", "encoder.0", "stops the gradient"),
    changed("unit_features", "GNE606", "mul"),
    changed("unit_embedding", "GNE606", "div"),
    changed("perceptual_features", "GNE606", "div"),
    changed("pooled_statistics", "GNE608", "reduce_mean"),
    changed("pooled_moments", "GNE604", "sqrt"),
    changed("angle", "GNE610", "acos"),
    changed("neighbour_means", "GNE607", "scale", "3 of its constants"),
    changed("half_squares", "GNE609", "scale", "float16"),
    changed("copied_experts", "GNE519", "experts.1.0", "weights of experts.0.0"),
    changed("converted_parameter", "GNE509", "bias", "offset"),
    changed("frames_classifier", "GNE514", "lstm"),
    changed("token_decoder", "GNE515", "matmul", "its mask hides the earlier ones"),
    changed("leaking_decoder", "GNE515", "mix", "before it hides them"),
    changed("rounded_code", "GNE507", "encoder.0", "derivative of step"),
    changed("multiplied_branches", "GNE415", "mul"),
    changed("text_pyramid", "GNE521", "", "blocks.2"),
    changed("contrastive", "GNE520", "matmul", "2.72"),
    changed("latent_attention", "GNE112", "matmul"),
    changed("constant_start", "GNE110", "0"),
    changed("normalised_vector", "GNE307", "3"),
    changed("utterance_norm", "GNE313", "div", "power 0.5"),
    changed("unread_condition", "GNE522", "", "condition"),
    changed("plain_memory", "GNE210", "rnn"),
    changed("growing_memory", "GNE220", "gru"),
    changed("exponential", "GNE609", "exp"),
)
"""Found since, see reports.md."""

MORE = (
    changed("asking_queries", "GNE523", "softmax"),
    Report("hidden_positions(way='zero')", "hidden_positions", "GNE524", "softmax", "sets hidden logits to 0"),
    Report("hidden_positions(way='tiny')", "hidden_positions", "GNE524", "softmax", "1e-09"),
    Report("hidden_positions(way='times')", "hidden_positions", "GNE524", "softmax", "multiplies hidden logits"),
    Report("hidden_positions(way='plus')", "hidden_positions", "GNE524", "", "adds 0 or 1"),
    Report("hidden_positions(way='late')", "hidden_positions", "GNE524", "softmax", "do not add up"),
    Report("hidden_positions(way='slight')", "hidden_positions", "GNE524", "", "adds 0 or -1e-09"),
    changed("row_scores", "GNE514", "1"),
    changed("last_states", "GNE513", "reshape"),
    changed("patches", "GNE513", "reshape"),
    changed("coded_tokens", "GNE525", "bias"),
    changed("dueling_values", "GNE526", "sub"),
    changed("squared_error", "GNE527", "sub"),
    changed("both_directions", "GNE528", "rnn.gru"),
    changed("last_sample", "GNE514", "rnn"),
    changed("whole_norm", "GNE515", "norm_1"),
    changed("sampled_code", "GNE507", "encoder.0", "stops the gradient"),
    Report("chosen_inputs(how='drawn')", "chosen_inputs", "GNE507", "gate.0"),
    Report("chosen_inputs(how='above half')", "chosen_inputs", "GNE507", "gate.0"),
    changed("routed_experts", "GNE507", "router"),
    changed("straight_codes", "GNE507", "encoder.0", "takes away as much of it as it adds"),
    changed("quantised_codes", "GNE507", "", "book never moves"),
    changed("replaced_head", "GNE529", ""),
    changed("late_layer", "GNE530", "linear"),
    changed("stacked_blocks", "GNE531", "blocks.0.1", "blocks.3.1"),
    changed("stepped_cell", "GNE507", "cell", "without the state"),
    Report("sums_of_two(way='itself')", "sums_of_two", "GNE532", "scale"),
    Report("sums_of_two(way='input')", "sums_of_two", "GNE532", "add"),
    changed("joined_scales", "GNE532", "concat"),
    changed("overwritten", "GNE510", "", "layers"),
    changed("query_for_key", "GNE533", "", "query is used 2 times and key"),
    Report("leaky_classifier(slope=1.0)", "leaky_classifier", "GNE215", "1"),
    Report("normalised_classifier(activation=False)", "normalised_classifier", "GNE512", "0"),
    Report("dropped_units(share=0.9)", "dropped_units", "GNE211", "2"),
    Report("dropped_units(share=1.0)", "dropped_units", "GNE507", "0", "drops everything"),
    Report("dropped_units(behind=True)", "dropped_units", "GNE212", "6"),
    Report("gated_layers(bias=-20.0)", "gated_layers", "GNE213", "sigmoid"),
    changed("softmax_layers", "GNE214", "0"),
    changed("rectified_score", "GNE518", "2"),
    Report("cosine_classes(factor=1.0)", "cosine_classes", "GNE517", "linear", loss="cross_entropy"),
    Report("tempered_pairs(factor=0.07)", "tempered_pairs", "GNE517", "log_softmax"),
    Report("scaled_pairs(start=1.0)", "scaled_pairs", "GNE520", "scale", "2.72"),
    Report("gated_memory(bias=-3.0)", "gated_memory", "GNE210", "rnn"),
    Report("squashed_action(guard=0.0)", "squashed_action", "GNE611", "log"),
    Report("written_losses(fused=False)", "written_losses", "GNE611", "log"),
    Report("all_distances(guard=0.0)", "all_distances", "GNE605", "sqrt"),
    Report("reduced_units(how='capsules', guard=0.0)", "reduced_units", "GNE605", "sqrt"),
    Report("reduced_units(how='shares', guard=0.0)", "reduced_units(how='shares')", "GNE607", "div"),
    Report("reduced_units(how='deviation', guard=0.0)", "reduced_units(how='deviation')", "GNE605", "sqrt"),
    Report("reduced_units(how='power', guard=0.0)", "reduced_units(how='power')", "GNE605", "pow"),
)
"""Of a third search: of 60 such pairs 16 were flagged at first, and one correction blamed."""

LATEST = (
    changed("drawn_norms", "GNE309", "norm"),
    changed("swapped_norms", "GNE309", "norm"),
    changed("zero_tokens", "GNE411", "tokens"),
    changed("learnt_places", "GNE411", "tokens"),
    changed("loud_head", "GNE111", "head"),
    changed("tied_head", "GNE111", "head"),
    changed("twin_critics", "GNE519", "second.0"),
    changed("wide_variance", "GNE609", "exp"),
    changed("film", "GNE507", "stem", "scales.2.weight, scales.2.bias of zeros"),
    changed("constant_memory", "GNE109", "memory"),
    changed("small_memory", "GNE210", "memory"),
    changed("empty_background", "GNE602", "linear"),
    changed("selu_at_default", "GNE102", "0"),
    Report("attention_factor(where='behind')", "attention_factor", "GNE112", "0.softmax"),
    Report("attention_factor(scaled=False)", "attention_factor", "GNE112", "0.matmul"),
    Report("attention_factor(where='heads')", "attention_factor", "GNE523", "0.softmax"),
    changed("encoder_blocks", "GNE510", "", "blocks.0-1.0"),
    changed("counted_layers", "GNE533", "", "layers.0 is used 4 times"),
    changed("carried_state", "GNE507", "cell", "without the state"),
    changed("deep_norm", "GNE510", "", "norms.0-11"),
    changed("bounded_matte", "GNE204", "out"),
    changed("graph_scores", "GNE507", "own", "softmax .* takes that out again"),
    changed("clip_frames", "GNE513", "reshape", "an axis of 3"),
    changed("single_score", "GNE507", "body.0", "single entry"),
    changed("spiking_units", "GNE507", "first", "derivative of compare"),
    changed("named_branches", "GNE509", "linear", "branches.left"),
    changed("normalised_pool", "GNE507", "body.0", "same for every input"),
    changed("power_pool", "GNE604", "pow"),
    changed("squeezed_blocks", "GNE415", "blocks.0.mul"),
    changed("batch_spread", "GNE605", "sqrt"),
    changed("residual_blocks", "GNE534", "", "1-6"),
    changed("own_loss", "GNE527", "sub"),
    changed("detached_branches", "GNE507", "blocks.0.0", "stops the gradient"),
    changed("gathered_parts", "GNE507", "encoder.0", "stops the gradient"),
    changed("counted_loop", "GNE510", "", "layers.3"),
    changed("looped_cell", "GNE210", "cell", "over 24 steps"),
    changed("step_code", "GNE507", "step", "axis of norm"),
    changed("stacked_critics", "GNE537", "constant", "All 5 slices"),
    Report("used_weights(way='signs')", "used_weights", "GNE507", "linear", "no derivative"),
    Report("used_weights(way='data')", "used_weights", "GNE507", "linear", "no derivative"),
    changed("own_scores", "GNE536", "log_sigmoid|sigmoid"),
)
"""Of a fourth search: of 36 such pairs 25 were flagged at first, 23 at the cause, and one correction blamed; of 20 more
that were written when these were mended 10, and three corrections blamed."""

NEWEST = (
    changed("scaled_action", "GNE604", "log"),
    changed("inverse_degrees", "GNE602", "linear", "degree of a node without neighbours"),
    changed("large_steps", "GNE218", "mul"),
    changed("growing_state", "GNE218", "scale"),
    changed("fixed_point", "GNE502", "", "1.6 bits are gained at every one"),
    changed("multiplied_infinity", "GNE612", "0.matmul"),
    changed("positive_infinity", "GNE612", "0.softmax"),
    changed("resting_rotation", "GNE605", "sqrt", "exactly zero at the start"),
    changed("quaternion", "GNE605", "sqrt"),
    changed("spectral_zero", "GNE602", "4"),
    changed("flow_scales", "GNE609", "layers.2.exp"),
    changed("coupled_halves", "GNE540", "layers.3.concat"),
    changed("half_memory", "GNE609", "0.matmul_1"),
    changed("decomposed_adapter", "GNE602", "2"),
    changed("summed_objectness", "GNE609", "reduce_sum"),
    changed("read_again", "GNE510", "", "1-4.first"),
    changed("excited_pixels", "GNE510", "", "squeeze"),
    changed("density", "GNE204", "density"),
    changed("wide_posterior", "GNE217", "scale"),
    changed("radial_units", "GNE613", "exp"),
    changed("distilled", "GNE539", "sub"),
    changed("blank_memory", "GNE538", "softmax"),
    Report("mixture_density(wrong=True)", "", "GNE611", "log"),
    changed("tower_scores", "GNE203", "sigmoid", loss="bce"),
    changed("factor_machine", "GNE203", "sigmoid", loss="bce"),
    changed("zero_controls", "GNE507", "enter"),
    changed("frozen_places", "GNE507", "bias", "no derivative"),
)
"""Of a fifth search: of 40 such pairs 21 were flagged at first, 11 at the cause; see reports.md. Two corrections have a
finding of their own and are not among these."""

LAST = (
    changed("learnt_threshold", "GNE507", "constant"),
    changed("blended_branches", "GNE507", "scale", "share never moves.*flat at the numbers it starts with"),
    changed("fused_scales", "GNE507", "scale", "weights never moves"),
    changed("turned_estimator", "GNE548", "add"),
    changed("learnt_metric", "GNE615", "linear", "computed from metric"),
    changed("transported_points", "GNE112", "div"),
    changed("half_mask", "GNE612", "matmul_1"),
    changed("dirichlet_policy", "GNE616", "lgamma"),
    changed("weighted_tasks", "GNE607", "scale"),
    changed("coarse_weights", "GNE110", "linear"),
    changed("binary_weights", "GNE101", "linear"),
    changed("lost_mask", "GNE542", "", r"masked_fill \(unasked.py"),
    Report("likelihood(given='probabilities')", "likelihood", "GNE549", "gather", "mean of probabilities"),
    Report("likelihood(given='logits')", "likelihood", "GNE549", "gather", "mean of logits"),
    changed("short_reach", "GNE547", "", "11%"),
    changed("doubled_skip", "GNE532", "concat"),
    changed("paired_candidates", "GNE541", "concat"),
    changed("rolled_samples", "GNE514", "1.roll"),
    changed("reversed_samples", "GNE514", "flip"),
    changed("drawn_positions", "GNE545", "bias"),
    changed("noise_schedule", "GNE546", "bias"),
    changed("single_expert", "GNE507", "router"),
    changed("squashed_cell", "GNE219", "slice"),
    changed("leaky_units", "GNE219", "slice"),
    changed("half_positions", "GNE544", "concat"),
    changed("equal_codes", "GNE544", "bias"),
    changed("cosine_attention", "GNE543", "matmul"),
)
"""Of a seventh search: of 31 such pairs 12 were flagged at first, 9 at the cause; see reports.md."""

LEFT_OVER = (
    changed("hyperbolic_places", "GNE610", "acosh"),
    changed("brightened_images", "GNE605", "pow"),
    changed("forward_sums", "GNE601", "reduce_max", "16 of the rows"),
)
"""Those of earlier searches that were named by nothing until then."""

EIGHTH = (
    changed("hidden_nan", "GNE607", "scale_1"),
    changed("own_distances", "GNE605", "sqrt"),
    changed("misplaced_forget", "GNE210", "memory"),
    Report("standardised_alone(wrong=True)", "", "GNE110", "4"),
    changed("summed_attention", "GNE401", "parts.0"),
    changed("shut_hard_gate", "GNE213", "hardsigmoid"),
    changed("clamped_weights", "GNE101", "linear"),
    changed("one_gate", "GNE219", "slice"),
)
"""Of an eighth search: of 30 such pairs 10 were flagged at first, 7 at the cause; see reports.md."""

PREVIEWED = (
    changed("resting_angles", "GNE617", "atan2"),
    changed("early_strides", "GNE553", "9", "2 convolutions"),
    changed("detached_adversary", "GNE550", "add", "stop_gradient"),
    changed("sloped_attention", "GNE551", "matmul_1"),
    Report("spline_grid(wrong=True, width=4, knots=8)", "spline_grid(width=4, knots=8)", "GNE119", "first.bias"),
    Report("masked_order(own=True)", "", "GNE552", "", "each of 7 outputs"),
    changed("rotary_pairs", "GNE554", "add", "100%"),
    changed("steep_frequencies", "GNE555", "sin|cos", "14 of 16 rates"),
    changed("floored_frequencies", "GNE555", "sin|cos", "all 16 rates"),
    changed("wild_frequencies", "GNE555", "sin|cos", "100 radians"),
    changed("decay_products", "GNE556", "cumprod"),
    changed("any_of_many", "GNE556", "prod"),
    changed("joined_samples", "GNE557", "reshape", "2 rows"),
    changed("padded_behind", "GNE558", "layers.0", "6 later ones"),
    changed("gated_by_time", "GNE559", "mul", "6 places"),
    changed("largest_of_all", "GNE560", "div"),
    changed("classes_over_time", "GNE561", "log_softmax"),
    changed("shares_over_points", "GNE562", "softmax"),
    changed("own_likeness", "GNE563", "log_softmax"),
    changed("summed_logits", "GNE564", "cumsum", loss="cross_entropy"),
    changed("inverse_of_any", "GNE618", "reciprocal"),
    changed("deep_floor", "GNE619", "log"),
)
"""Of both, by rules that are previews."""

NINTH = (
    changed("wave_classes", "GNE514", "log_softmax"),
    changed("pixel_classes", "GNE561", "softmax", "the second"),
    changed("single_mask", "GNE507", "enter.0", "single entry"),
    changed("intent_scores", "GNE516", "softmax", "its own log-softmax", "cross_entropy"),
    changed("molecule_labels", "GNE516", "sigmoid", "its own sigmoid", "bce_with_logits"),
    changed("action_values", "GNE567", "relu_3", "negative", "mse"),
    changed("image_generator", "GNE518", "7"),
    changed("straight_convolutions", "GNE512", "0"),
    changed("constant_dropout", "GNE571", "", r"everyday.py:\d+, everyday.py:\d+"),
    Report("equal_filters(wrong=True)", "", "GNE109", "0", "100% hold a single number"),
    changed("small_weights", "GNE101", "0"),
    changed("large_weights", "GNE203", "1"),
    changed("detached_state", "GNE568", "cell_7", "8 steps"),
    changed("copied_factor", "GNE570", "", "factor", "cross_entropy"),
    changed("hard_mask", "GNE507", "body.0", "derivative of compare"),
    changed("listed_tables", "GNE509", "embedding", "tables.0.weight"),
    changed("viewed_tags", "GNE513", "reshape"),
    changed("sample_weights", "GNE527", "mul"),
    changed("raw_tokens", "GNE569", "memory", "whole numbers of x"),
    changed("inverted_padding", "GNE572", "", r"commonplace.py:\d+"),
    changed("factor_mask", "GNE524", "attention"),
    changed("forecast_axis", "GNE514", "memory"),
    changed("multiplied_temperature", "GNE517", "log_softmax"),
    changed("series_codes", "GNE525", "bias"),
    changed("complete_graph", "GNE565", "linear", "all 10 nodes"),
    changed("grown_residuals", "GNE401", "1.pad"),
    changed("random_state", "GNE566", "memory"),
    changed("normalised_logits", "GNE307", "1"),
    changed("normalised_prices", "GNE567", "1", "batch's mean", "mse"),
    changed("rectified_code", "GNE573", "encoder.2"),
    changed("rectified_memory", "GNE210", "memory"),
    changed("lost_activation", "GNE542", "", "relu"),
    changed("summed_neighbours", "GNE413", "transpose_7"),
    changed("dropped_nearly", "GNE211", "2"),
    changed("mixed_channels", "GNE620", "", r"logdet \(unasked.py:\d+\)"),
)
"""Of a ninth search: of 34 such pairs 22 were flagged at first, 17 at the cause; see reports.md."""

TENTH = (
    changed("spelled_attention", "GNE507", "query", "the sum of shares"),
    changed("viewed_columns", "GNE513", "reshape", "an axis of 24"),
    changed("viewed_boxes", "GNE513", "reshape", "an axis of 6"),
    changed("swapped_back", "GNE513", "reshape_1"),
    changed("plain_tensor", "GNE509", "linear", "matrix"),
    changed("hand_shares", "GNE560", "div"),
    changed("own_state", "GNE510", "", "reset, candidate"),
    changed("rewrapped_weights", "GNE507", "linear", "second.weight"),
    changed("fixed_zero", "GNE507", "blocks.0.0"),
    changed("stacked_memory", "GNE510", "", r"memory \(l1\)"),
    changed("crossed_clamp", "GNE507", "log", "gives its upper bound"),
    changed("policy_ratio", "GNE507", "policy.0", "sub .* takes away as much"),
    changed("causal_first", "GNE547", "", "4%"),
    changed("summed_batch", "GNE562", "softmax"),
    Report("lost_memory(wrong='lost')", "lost_memory", "GNE574", "cell_1", "not given the memory"),
    Report("lost_memory(wrong='swapped')", "lost_memory", "GNE574", "cell_1", "each other's place"),
    changed("half_rotary", "GNE575", "matmul_1", "queries and not its keys"),
    changed("shared_norm", "GNE576", "norms.0", "layers.0, layers.1, layers.2"),
    changed("heads_of_token", "GNE577", "matmul_1", "4 heads"),
    changed("unturned_back", "GNE578", "concat"),
    Report("coded(wrong='summed')", "coded", "GNE579", "add_1", "reduce_sum is a sum"),
    Report("coded(wrong='turned')", "coded", "GNE580", "sub_3", "exp"),
    changed("forgotten_chain", "GNE581", "", r"amiss.py:\d+"),
    changed("unshuffled_pixels", "GNE582", "view|reshape", "2 times"),
)
"""Of a tenth search: of 31 such pairs 11 were flagged at first, 9 at the cause; see reports.md."""

ELEVENTH = (
    changed("stale_state", "GNE574", "cell_1", "the same state at every step"),
    Report("stale_state(wrong=True, hand='gated')", "stale_state(hand='gated')", "GNE574", "back", "the same state"),
    changed("computed_twice", "GNE532", "concat"),
    changed("mixture_shares", "GNE514", "log_softmax"),
    changed("length_of_all", "GNE560", "div"),
    changed("mask_of_all", "GNE560", "div"),
    changed("teacher_again", "GNE550", "add", "frozen"),
    changed("squashed_actions", "GNE583", "tanh"),
    changed("unit_words", "GNE584", "div"),
    changed("normalised_poses", "GNE585", "norm", "12 positions"),
    Report("untold_shares(wrong='function')", "untold_shares", "GNE586", "", r"retold.py:\d+"),
    Report("untold_shares(wrong='module')", "untold_shares", "GNE586", "", r"retold.py:\d+"),
    Report("plain_energies(wrong='expanded')", "plain_energies", "GNE507", "state", "same number all along the axis"),
    Report("plain_energies(wrong='repeated')", "plain_energies", "GNE507", "state", "same number all along the axis"),
    Report("padded_words(wrong='queries')", "padded_words", "GNE524", "matmul", "an entry for each query"),
    Report("padded_words(wrong='fused')", "padded_words", "GNE524", "attention", "an entry for each query"),
    Report("fitting_pairs(wrong='summed')", "fitting_pairs", "GNE526", "add", "one number for all samples"),
    Report("fitting_pairs(wrong='contracted')", "fitting_pairs", "GNE526", "add", "one number for all samples"),
    changed("balanced_experts", "GNE550", "reduce_mean", "add up to 1"),
    changed("unmet_triplets", "GNE607", "div", "count"),
    changed("noisy_values", "GNE595", "2"),
    changed("wave_values", "GNE567", "3", "below -0.17", loss="mse"),
    Report("sine_network(hidden='undivided')", "sine_network", "GNE596", "2"),
    Report("grown_volumes(wrong=True)", "grown_volumes", "GNE526", "sub", "one number for all samples"),
    Report("short_table(rows=4)", "short_table", "GNE544", "bias", "87% of the codes"),
    Report("fitted_critic(wrong=True)", "fitted_critic", "GNE598", "mul", "critic"),
    Report("admitted_numbers(wrong=True)", "admitted_numbers", "GNE599", "add", "multiply them"),
    Report("edge_shares(wrong=True)", "edge_shares", "GNE597", "div", "the other end's"),
    Report("sorted_back(wrong='samples')", "sorted_back", "GNE701", "gather", "argsort"),
    Report("sorted_back(wrong='words')", "sorted_back(how='words')", "GNE701", "gather", "argsort"),
    changed("moved_picture", "GNE702", "grid_sampler", "transposed"),
    Report("clipped_policy(wrong='probabilities')", "clipped_policy", "GNE703", "exp", "old probability"),
    Report("clipped_policy(wrong='losses')", "clipped_policy(losses=True)", "GNE703", "exp", "old probability"),
    changed("scored_beside", "GNE514", "", "In the loss: log_softmax"),
    Report("mean_error(wrong=True, beside=True)", "mean_error(beside=True)", "GNE709", "", "In the loss: The error"),
    Report("margins(wrong=True)", "margins", "GNE712", "clip", "75% of the entries"),
    Report("turned_keys(wrong=True)", "turned_keys", "GNE711", "matmul_1", "positions of the keys"),
    Report("turned_keys(wrong=True, heads=2)", "turned_keys(heads=2)", "GNE711", "matmul_1", "positions of the keys"),
    Report("followed(wrong=True)", "followed", "GNE710", "mul", "teacher and student"),
    Report("followed(wrong=True, squares=True)", "followed(squares=True)", "GNE710", "sub", "teacher and student"),
    changed("hidden_domain", "GNE708", "", "turned defines"),
    changed("shut_highway", "GNE704", "gates.0", "1 less the gate"),
    changed("stochastic_depth", "GNE705", "dropout", "whole samples"),
    Report("bound_of_code(wrong='noise')", "bound_of_code(deviation=True)", "GNE706", "scale", r"exp\(v\) where"),
    Report("bound_of_code(wrong='squares')", "bound_of_code", "GNE706", "scale", r"v\^2"),
    Report("focal_error(wrong='error')", "focal_error", "GNE707", "mul"),
    Report("focal_error(wrong='share')", "focal_error", "GNE707", "mul"),
    changed("few_channels", "GNE587", "2", "2 rectified"),
    changed("lost_bend", "GNE588", "", "3 layers"),
    changed("features_mean", "GNE589", "reduce_mean", "24 features"),
    changed("pooled_features", "GNE589", "reduce_max", "64 features"),
    changed("multiplied_codes", "GNE590", "scale", "50% of the features at position 0"),
    Report("coded(wrong='detached')", "coded", "GNE591", "stop_gradient"),
    changed("hard_dice", "GNE507", "body.0", "derivative of argmax"),
    changed("plain_keys", "GNE593", "linear|matmul", "keys holds"),
    changed("unbatched_rows", "GNE592", "memory", "32 rows"),
)
"""Of an eleventh search: of 30 pairs from public reports 11 were flagged at first, 8 at the cause; see reports.md."""

ALL = (*KNOWN, *FURTHER, *MORE, *LATEST, *NEWEST, *LAST, *LEFT_OVER, *EIGHTH, *PREVIEWED, *NINTH, *TENTH, *ELEVENTH)

BREAKS = frozenset({"GNE601", "GNE602", "GNE604", "GNE605", "GNE607", "GNE608"})
"""Rules of what is no number in the very first step, whatever is drawn."""
SOMETIMES = frozenset({"pooled_moments", "unmet_triplets"})
"""Where it takes the rounding of some batch, or a batch that is learnt."""


def said(model: str, loss: str | None) -> list[Finding]:
    """Errors and warnings but those about what gnelint cannot see."""
    module, inputs = drawn_in_type(model)
    findings = gnelint.check(module, inputs, loss=loss, preview=True).findings
    return [each for each in findings if each.severity in ("error", "warning") and not each.rule.startswith("GNE9")]


LONG = ("large_steps", "growing_state", "blank_memory", "mixture_density", "one_gate")
"""Loops whose joins are sampled, which takes seconds."""
KNOWN_BY_OTHERS = (
    "single_mask",
    "intent_scores",
    "molecule_labels",
    "small_weights",
    "large_weights",
    "hard_mask",
    "listed_tables",
    "viewed_tags",
    "sample_weights",
    "factor_mask",
    "series_codes",
    "grown_residuals",
    "normalised_logits",
    "rectified_memory",
    "lost_activation",
    "summed_neighbours",
    "dropped_nearly",
)
"""Of the ninth search: rules and kinds that a quicker pair stands for."""


SAMPLED = 3
"""Of about so many corrections the quick run asks one."""


def marked(report: Report) -> pytest.MarkDecorator | tuple[()]:
    """What makes a test a slow one."""
    return pytest.mark.slow if report.bad.startswith((*LONG, *KNOWN_BY_OTHERS)) else ()


@pytest.mark.parametrize(
    "report",
    [pytest.param(each, id=str(each), marks=marked(each)) for each in ALL],
)
def test_the_cause_is_named_at_its_place(report: Report) -> None:
    found = [each for each in said(report.bad, report.loss) if each.rule == report.rule]
    assert any(
        re.search(report.says, each.message) and (not report.node or re.match(report.node, each.nodes[0]))
        for each in found
    ), found


@pytest.mark.parametrize(
    "report",
    [
        pytest.param(each, id=each.good, marks=marked(each) or slow_unless(is_sampled(each.good, SAMPLED)))
        for each in {each.good: each for each in ALL if each.good}.values()
    ],
)
def test_the_correction_is_blamed_for_nothing(report: Report) -> None:
    assert said(report.good, report.loss) == []


@pytest.mark.parametrize(
    "report",
    [each for each in ALL if each.rule in BREAKS and each.good not in SOMETIMES],
    ids=str,
)
def test_what_is_said_to_be_no_number_is_none(report: Report) -> None:
    assert not is_finite_in_a_step(report.bad)
    assert is_finite_in_a_step(report.good)


def drawn_in_type(model: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A network with inputs of the type of its parameters."""
    module, inputs = network(model)
    half = any(parameter.dtype == torch.float16 for parameter in module.parameters())
    return module, tuple(each.half() if half and each.is_floating_point() else each for each in inputs)


def is_finite_in_a_step(model: str) -> bool:
    """Whether outputs and gradients of a network are numbers, under a loss that looks at all outputs."""
    module, inputs = drawn_in_type(model)
    given = module(*inputs)
    outputs = given if isinstance(given, tuple) else (given,)
    sum((each * each.detach().sign()).mean() for each in outputs).backward()
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    return all(bool(each.isfinite().all()) for each in (*outputs, *gradients))
