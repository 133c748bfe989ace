"""Which answers to "what went wrong" are right for each planted fault.

Several are where they say the same of the bits: rows of a weight shifted by one are columns of the
result shifted by one. Low-precision sums and low-precision operands are different answers.
`unknown` is right where no cause in the list is true.
"""

from __future__ import annotations

from collections.abc import Mapping

from parity.localize.cause import CauseKind

__all__ = ["RIGHT", "is_right"]

_MASK = (
    "causal_dropped mask_edge_late mask_edge_early first_key_lost window_wider window_narrower window_dropped"
)
_TABLE: Mapping[str, str] = {
    "linear/inputs_tf32 linear/inputs_bf16 linear/inputs_e4m3 rotate/table_bf16": "inputs_rounded",
    "linear/accumulate_bf16 linear/accumulate_f16 rms_norm/accumulate_bf16": "accumulation",
    "attend/accumulate_bf16 latent_attend/accumulate_bf16": "accumulation",
    "linear/k_tile_dropped linear/k_tile_twice linear/k_tail_dropped": "terms",
    "linear/weight_transposed": "weight_layout",
    "linear/weight_rows_rolled": "weight_layout roll",
    "linear/bias_missing linear/bias_twice": "bias",
    "rms_norm/eps_large rms_norm/eps_missing rms_norm/eps_outside_root": "epsilon",
    "rms_norm/mean_subtracted": "mean",
    "rms_norm/divided_by_n_less_1": "mean scale",
    "rms_norm/offset_wrong rms_norm/gain_missing": "norm_weight",
    "rotate/layout_other": "rope_layout",
    "rotate/sign_of_sin": "rope_sign",
    "rotate/position_off_by_one": "position",
    "rotate/not_rotated": "not_applied",
    "rotate/first_pair_only": "not_applied unknown",
    **{f"attend/{bug}": "mask" for bug in _MASK.split()},
    **{f"latent_attend/{bug}": "mask" for bug in _MASK.split() if "window" not in bug},
    "attend/another_request": "mask stale operand",
    "attend/scale_missing attend/scale_of_another_width": "attention_scale",
    "latent_attend/scale_missing latent_attend/scale_of_another_width": "attention_scale",
    "attend/denominator_bf16 latent_attend/denominator_bf16": "denominator accumulation",
    "attend/exp_bf16 latent_attend/exp_bf16": "intermediate",
    "attend/padding_in_denominator latent_attend/padding_in_denominator": "denominator mask",
    "attend/softcap_missing": "softcap",
    "attend/head_mapping": "head_groups",
    "attend/stale_last_kv": "stale repeated",
    "latent_attend/shared_key_missing": "operand terms not_applied",
    "gated/gate_and_up_swapped experts/gate_and_up_swapped": "gate_up",
    "gated/activation_other gated/activation_relu gated/activation_quick": "activation",
    "experts/expert_off_by_one": "expert",
    "experts/last_choice_dropped": "routing terms expert",
    "experts/weights_ignored experts/weights_of_neighbour": "routing operand expert",
    "route/scores_other route/bias_ignored route/groups_ignored route/bias_weighed": "routing",
    "route/normalised_otherwise": "routing",
    "route/best_skipped": "routing off_by_one order",
    "route/scale_missing": "routing scale",
    "embed/id_off_by_one": "off_by_one",
    "embed/scale_missing": "embedding_scale",
    "add/residual_lost add/residual_twice add/sublayer_lost": "operand not_applied",
    "softcap/cap_missing": "softcap not_applied",
    "store/last_row_not_written": "stale non_finite",
    "store/rows_swapped": "reversed permuted",
    "store/stored_e4m3 store/stored_bf16": "output_rounding",
    "store/slot_off_by_one": "roll off_by_one",
    "any/scaled_1.01 any/scaled_half any/scaled_1.0001": "scale",
    "any/offset": "offset",
    "any/sign any/absolute": "sign",
    "any/one_channel_doubled": "row_scale scale",  # "times 2, in columns 32"
    "any/columns_rolled any/rows_rolled": "roll",
    "any/columns_flipped": "reversed",
    "any/halves_swapped": "halves roll",
    "any/interleaved any/deinterleaved": "halves",
    "any/heads_transposed": "head_layout transposed",
    "any/one_element": "unknown",
    "any/one_row_stale": "repeated stale",
    "any/last_row_of_the_call_before": "stale",
    "any/tail_zero any/tile_zero any/rows_beyond_tile_zero": "zeroed tile_edge",
    "any/saturated_e4m3 any/saturated_e4m3_240": "saturated",
    "any/flushed_f16 any/flushed_coarsely": "flushed",
    "any/grid_bf16 any/grid_f16 any/grid_tf32 any/grid_e4m3 any/grid_e5m2": "output_rounding",
    "any/rounded_down": "output_rounding",
    "any/row_of_nan any/row_of_inf": "non_finite",
}
RIGHT: Mapping[str, frozenset[CauseKind]] = {
    kind: frozenset(map(CauseKind, causes.split()))
    for kinds, causes in _TABLE.items()
    for kind in kinds.split()
}


def is_right(kind: str, named: str) -> bool:
    """Whether `named`, a Cause's kind, is a true answer for a fault of this kind."""
    return CauseKind(named) in RIGHT[kind]
