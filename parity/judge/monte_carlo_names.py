"""Which of torch's primitive operations moves, chooses, rounds once or is a function to some ulps.

An operation that is in no list has no error model until `monte_carlo_models` gives it one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = [
    "COMPARES",
    "CONSTANTS",
    "CUTS",
    "MOVES",
    "OF_SCALED",
    "ORDERS",
    "QUIET",
    "ROUNDED",
    "ULPS",
    "name_of",
    "writes",
]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Elements are moved or made, bit for bit.
MOVES = _names(
    """
    _conj _reshape_alias _reshape_copy _to_copy _unsafe_view alias alias_copy as_strided
    broadcast_in_dim broadcast_to cat channel_shuffle clone col2im_copy collapse_view complex constant_pad_nd
    contiguous convert_element_type copy copy_ copy_to detach device_put diag diag_embed diagonal
    diagonal_copy diagonal_scatter embedding empty empty_like empty_strided expand expand_copy eye fill
    fill_ flip full full_like gather im2col index index_copy index_fill index_put index_select lift
    lift_fresh lift_fresh_copy masked_fill masked_scatter masked_select native_dropout new_empty
    new_empty_strided new_full new_ones new_zeros ones ones_like permute pixel_shuffle pixel_unshuffle
    reflection_pad1d reflection_pad2d reflection_pad3d repeat repeat_interleave replication_pad1d
    replication_pad2d replication_pad3d reshape resize_ roll rot90 scalar_tensor scatter select
    select_backward select_copy select_scatter set_ slice slice_copy slice_in_dim slice_scatter split
    split_copy split_dim split_with_sizes split_with_sizes_copy squeeze squeeze_copy stack t t_copy take
    tile transpose transpose_copy tril tril_indices triu triu_indices unbind unbind_copy unfold
    unfold_copy unsqueeze unsqueeze_copy upsample_nearest1d upsample_nearest2d upsample_nearest3d
    _upsample_nearest_exact1d _upsample_nearest_exact2d view view_as_complex view_as_real view_copy
    view_of where zero zero_ zeros zeros_like
    """
)
# Values are chosen, counted, compared or cut to integers: nothing is rounded to a float's last place.
_CHOICES = _names(
    """
    _local_scalar_dense _nested_tensor_from_tensor_list _unique2 abs abs_ adaptive_max_pool2d
    _adaptive_max_pool2d adaptive_max_pool3d all amax amin aminmax any argmax argmin argsort bitwise_and
    bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor bucketize ceil clamp
    clamp_max clamp_min copysign count_nonzero cummax cummin dequantize eq equal fabs floor fmax fmin
    fractional_max_pool2d ge gt hardshrink hardtanh heaviside histc is_same_size isfinite isinf isnan
    isneginf isposinf item kthvalue le logical_and logical_not logical_or logical_xor lt max
    max_pool2d_with_indices max_pool3d_with_indices maximum median min minimum mode msort nan_to_num
    nanmedian ne neg nonzero one_hot relu round searchsorted sgn sign signbit sort sym_numel sym_size
    sym_stride threshold topk trunc unique_consecutive unique_dim
    """
)
QUIET = MOVES | _CHOICES
# A number that a tensor is compared with, or filled with, has the tensor's type.
COMPARES = _names("eq fill ge gt le lt ne")
# Devices differ in whether a number that these cut at has the tensor's type.
CUTS = _names("hardshrink threshold")
# Made of a number alone, which the type of the tensor holds, on every device alike.
CONSTANTS = _names(
    """
    empty empty_like eye full full_like lift_fresh new_empty new_full new_ones new_zeros ones ones_like
    scalar_tensor zeros zeros_like
    """
)
# Of equal elements, any may come first.
ORDERS = _names("argmax argmin argsort kthvalue max median min mode msort nanmedian sort topk")
# Largest error in units in the last place: the full profile of the OpenCL C 3.0 specification, table
# "Relative error as ULPs", where it has the function; 16, its weakest promise, where it has not.
ULPS: Mapping[str, float] = {
    **dict.fromkeys(("acos", "asinh", "acosh", "cos", "hypot", "sin", "sinh", "cosh"), 4.0),
    **dict.fromkeys(("asin", "log10", "log", "log2"), 4.0),
    **dict.fromkeys(("atan", "atanh", "tan", "tanh"), 5.0),
    **dict.fromkeys(("exp", "exp2", "expm1", "rsqrt", "log1p", "cbrt", "reciprocal"), 3.0),
    **dict.fromkeys(("atan2",), 6.0),
    **dict.fromkeys(("erf", "erfc", "pow", "tgamma", "lgamma", "digamma", "erfinv", "erf_inv"), 16.0),
    **dict.fromkeys(("special_erfcx", "erfcx", "special_i0e", "special_i1e", "i0", "special_ndtri"), 16.0),
}
# Functions that every library takes from exp of the argument in some other base: x log2(e) is rounded.
OF_SCALED = frozenset({"exp", "expm1", "sigmoid"})
# Correctly rounded by IEEE 754 on every device that claims it.
ROUNDED = _names("add sub rsub mul div sqrt frac")


def name_of(func: Any) -> str:
    """Return an overload's name without namespace; of one that writes in place, that of its plain form."""
    name: str = func._schema.name.rpartition("::")[2]  # noqa: SLF001 - there is no public way
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def writes(func: Any) -> bool:
    """Whether an overload writes to one of its arguments."""
    return bool(func._schema.is_mutable)  # noqa: SLF001 - there is no public way
