"""The closed set of likely causes that a diagnosis may name.

A kind says what went wrong in the words of someone who mends kernels; the sentence of a `Cause`
adds the numbers. Does not decide anything: `diagnose` does.
"""

from __future__ import annotations

from enum import Enum

__all__ = ["CauseKind"]


class CauseKind(Enum):
    """What probably went wrong, by family: values, places, precision, formula."""

    # the right values, changed
    SCALE = "scale"  # all times one factor
    ROW_SCALE = "row_scale"  # each row, or each channel, times a factor of its own
    OFFSET = "offset"  # all plus one number, or one number a row or channel
    SIGN = "sign"  # negated, or made positive
    SATURATED = "saturated"  # clipped at the largest value of a format
    FLUSHED = "flushed"  # small values became zero
    WRAPPED = "wrapped"  # an integer left its range and came back at the other end
    FP8_FLAVOUR = "fp8_flavour"  # 8-bit codes read or written by another flavour's table
    NON_FINITE = "non_finite"  # NaN or infinity where the value is finite, or the reverse
    BIT_FLIP = "bit_flip"  # single bits of elements differ
    # the right values, elsewhere
    TRANSPOSED = "transposed"  # two dimensions swapped in memory
    HEAD_LAYOUT = "head_layout"  # heads and their dimensions interleaved in the other order
    HALVES = "halves"  # halves swapped, or interleaved where they should be apart
    ROLL = "roll"  # all moved by a number of places: an index is off by one or more
    REVERSED = "reversed"  # the order of a dimension is backwards
    PERMUTED = "permuted"  # rows or channels in another order
    REPEATED = "repeated"  # rows hold the content of another row
    STALE = "stale"  # what an earlier call or another step had left
    ZEROED = "zeroed"  # a part was never written, or written with zeros
    CONSTANT = "constant"  # a part holds one and the same value
    TILE_EDGE = "tile_edge"  # only one tile or a ragged end is wrong, by no rule found
    # the right formula, in less precision
    INPUTS_ROUNDED = "inputs_rounded"  # operands were read in a narrower type
    ACCUMULATION = "accumulation"  # sums were kept in a narrower type
    PARTIALS_ROUNDED = "partials_rounded"  # sums of parts were stored in a narrower type
    DENOMINATOR = "denominator"  # the sum that a row is divided by is off
    OUTPUT_ROUNDING = "output_rounding"  # results lie on a narrower grid, or were truncated
    DOUBLE_ROUNDING = "double_rounding"  # rounded to another type first
    INTERMEDIATE = "intermediate"  # softmax weights, scores or the like were stored in a narrower type
    # another formula
    EPSILON = "epsilon"
    MEAN = "mean"  # the mean or the number of terms it divides by
    ACTIVATION = "activation"  # another activation function, or none
    GATE_UP = "gate_up"  # gate and up exchanged, or split in the other layout
    ATTENTION_SCALE = "attention_scale"
    MASK = "mask"  # the edge of what is visible: causal, window, padding, key dropped or leaked
    HEAD_GROUPS = "head_groups"  # query heads read the key and value heads of other groups
    SOFTCAP = "softcap"
    ROPE_LAYOUT = "rope_layout"  # pairs of halves where neighbours pair, or the reverse
    ROPE_SIGN = "rope_sign"
    ROPE_BASE = "rope_base"
    POSITION = "position"  # positions shifted
    NOT_APPLIED = "not_applied"  # the step gave back its input
    NORM_WEIGHT = "norm_weight"  # the weight of a norm missing, or with another offset
    ROUNDING_ORDER = "rounding_order"  # rounded before a product instead of after it
    BIAS = "bias"  # missing, twice, or of another sign
    OPERAND = "operand"  # an operand is missing, twice, or in the place of another
    WEIGHT_LAYOUT = "weight_layout"  # a weight transposed, permuted or shifted
    TERMS = "terms"  # part of a sum left out or added twice
    QUANT_SCALE = "quant_scale"  # a scale of another group, or none
    NIBBLE_ORDER = "nibble_order"
    ZERO_POINT = "zero_point"
    ORDER = "order"  # direction of a sort, ties, unsorted results
    OFF_BY_ONE = "off_by_one"  # indices one too high or low
    ROUTING = "routing"  # how experts are scored, limited, normalised or scaled
    EXPERT = "expert"  # the right routing, another expert's weights
    EMBEDDING_SCALE = "embedding_scale"
    CONVERSION = "conversion"  # a conversion truncates, saturates or overflows by another rule
    ATTRIBUTE = "attribute"  # another value of one of the op's own attributes
    FORM = "form"  # another dtype, shape or number of outputs
    UNKNOWN = "unknown"
