"""Which ONNX operators are imported, and how each runs: the table that `sateen check` speaks from."""

from __future__ import annotations

from sateen.compiler.importer import ops_attention as heads
from sateen.compiler.importer import ops_choose as choose
from sateen.compiler.importer import ops_einsum as sums
from sateen.compiler.importer import ops_elementwise as elementwise
from sateen.compiler.importer import ops_linear as linear
from sateen.compiler.importer import ops_pool as pool
from sateen.compiler.importer import ops_quantize as quantize
from sateen.compiler.importer import ops_recurrent as steps
from sateen.compiler.importer import ops_repeat as repeat
from sateen.compiler.importer import ops_resize as resize
from sateen.compiler.importer import ops_rows as rows
from sateen.compiler.importer import ops_running as running
from sateen.compiler.importer import ops_select as select
from sateen.compiler.importer import ops_shape as shape
from sateen.compiler.importer import ops_trunc as trunc
from sateen.compiler.importer import ops_write as write
from sateen.compiler.importer.ops_elementwise import binary, unary
from sateen.compiler.importer.walk import Handler
from sateen.ir.functions import FUNCTIONS, OUTPUT_FUNCTIONS

_CONV = "convolution on the array"
_PRODUCT = "matrix product on the array"
_ATTENTION = "two products on the array, softmax between them on machines built with `softmax`"
_SUM = "residual addition, or an offset folded into a convolution"
_STEPS = "unrolled step by step, the input's products for all steps at once"
_FOLDED = "scale and offset per channel, folded into a convolution where one is next to it"
_CLAMP = "clamp in the vector unit"
_MAXIMUM = "clamp in the vector unit, or pooling over two tensors"
_FACTOR = "product of two tensors, or a scale per channel, folded into a convolution where one is next to it"
_TABLE = "activation table"
_POOL = "pooling"
_QUANTIZER = "quantizer, kept as the file has it"
_PHASES = "a convolution for each phase, or pixels moved, in the buffer"
_MOVED = "pixels and channels moved by what reads it"
_ROWS = "normalization in the vector unit, of machines built with `normalize`"
_LOG_SOFTMAX = "likewise, and there a table of the rounded Softmax"
_SOFTMAX = "on the host at the model's end, else in the vector unit, of machines built with `softmax`"
_SELECTED = "selection, folded into a convolution where it can be"
_LAYOUT = "layout only, nothing to compute"

_TABLES: dict[str, Handler] = {
    **{f.operator: unary(name, f.defaults) for name, f in FUNCTIONS.items() if f.operator},
    "Gelu": elementwise.gelu,
    "PRelu": elementwise.prelu,
    "Pow": binary("pow"),
    "Where": elementwise.where,
    **{
        name: binary(name.lower())
        for name in ("Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Equal", "And", "Or", "Xor")
    },
    "Mod": elementwise.modulo,
}

HANDLERS: dict[str, tuple[Handler, str]] = {
    "Conv": (linear.conv, _CONV),
    "Gemm": (linear.gemm, _PRODUCT),
    "MatMul": (linear.matmul, _PRODUCT),
    "Einsum": (sums.einsum, _PRODUCT),
    "Attention": (heads.attention, _ATTENTION),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), (steps.recurrent, _STEPS)),
    "BatchNormalization": (linear.batch_normalization, _FOLDED),
    "Add": (elementwise.add, _SUM),
    "Sum": (elementwise.add, _SUM),
    "Sub": (binary("sub"), _SUM),
    "Mul": (binary("mul"), _FACTOR),
    "Div": (binary("div"), _FACTOR),
    "Relu": (elementwise.relu, _CLAMP),
    "Clip": (elementwise.clip, _CLAMP),
    "Max": (elementwise.extremum("max"), _MAXIMUM),
    "Min": (elementwise.extremum("min"), _MAXIMUM),
    **{name: (handler, _TABLE) for name, handler in _TABLES.items()},
    "MaxPool": (pool.max_pool, _POOL),
    "AveragePool": (pool.average_pool, _POOL),
    "GlobalAveragePool": (pool.global_pool("average"), _POOL),
    "GlobalMaxPool": (pool.global_pool("max"), _POOL),
    "LpPool": (pool.lp_pool, _POOL),
    "ReduceMean": (pool.reduction("average"), _POOL),
    "ReduceSum": (pool.reduction("sum"), _POOL),
    "ReduceMax": (pool.reduction("max"), _POOL),
    "Pad": (pool.pad, "padding, zeros merged into the next window where they can be"),
    "Resize": (resize.resize, _PHASES),
    "Upsample": (resize.resize, _PHASES),
    "ConvTranspose": (resize.conv_transpose, _PHASES),
    "DepthToSpace": (resize.depth_to_space, _MOVED),
    "SpaceToDepth": (resize.space_to_depth, _MOVED),
    "Flatten": (shape.flatten, _LAYOUT),
    "Reshape": (shape.reshape_to, _LAYOUT),
    "Transpose": (shape.transpose, _LAYOUT),
    "Squeeze": (shape.squeeze, _LAYOUT),
    "Unsqueeze": (shape.unsqueeze, _LAYOUT),
    "Identity": (shape.identity, _LAYOUT),
    "Dropout": (shape.dropout, _LAYOUT),
    "Cast": (shape.cast, _LAYOUT),
    "CastLike": (shape.cast, _LAYOUT),
    "Shape": (shape.shape, "constant"),
    "Slice": (select.slice_of, _SELECTED),
    "Split": (select.split, _SELECTED),
    "Gather": (select.gather, _SELECTED),
    "ScatterND": (write.scatter, _MOVED),
    "Expand": (repeat.expand, _MOVED),
    "Tile": (repeat.tile, _MOVED),
    "Compress": (repeat.compress, _MOVED),
    "ReverseSequence": (repeat.reverse_sequence, _MOVED),
    "CenterCropPad": (repeat.center_crop_pad, _MOVED),
    "CumSum": (running.cumulative_sum, _PRODUCT),
    "Trilu": (running.triangle, _FOLDED),
    "Concat": (shape.concat, "concatenation"),
    "QuantizeLinear": (quantize.quantize_linear, _QUANTIZER),
    "DequantizeLinear": (quantize.dequantize_linear, _QUANTIZER),
    "Quant": (quantize.int_quant, _QUANTIZER),
    "IntQuant": (quantize.int_quant, _QUANTIZER),
    "FloatQuant": (quantize.float_quant, _QUANTIZER),
    "BipolarQuant": (quantize.bipolar_quant, _QUANTIZER),
    "Trunc": (trunc.trunc, _QUANTIZER),
    "ArgMax": (choose.argument(largest=True), "on the host"),
    "ArgMin": (choose.argument(largest=False), "on the host"),
    "TopK": (choose.top_k, "on the host"),
    **{
        f.operator: (
            shape.on_host(kind),
            {"softmax": _SOFTMAX, "log_softmax": _LOG_SOFTMAX}.get(kind, "on the host"),
        )
        for kind, f in OUTPUT_FUNCTIONS.items()
    },
    "LayerNormalization": (rows.layer_normalization, _ROWS),
    "RMSNormalization": (rows.layer_normalization, _ROWS),
    "MeanVarianceNormalization": (rows.mean_variance_normalization, _ROWS),
    "LRN": (
        rows.local_response,
        "a square and a power by table, sums by a matrix product, a product of two tensors",
    ),
    "GroupNormalization": (rows.group_normalization, _ROWS),
    "InstanceNormalization": (rows.group_normalization, _ROWS),
    "LpNormalization": (rows.lp_normalization, _ROWS),
}
