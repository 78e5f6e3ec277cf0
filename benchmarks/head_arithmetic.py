"""Pieces of models that compute: normalisations, activations, reductions, products of unusual shapes, decoders of detectors."""

from __future__ import annotations

from head_text import block, real, whole

ARITHMETIC = (
    block(
        "YOLOv8 distances 1x64x8400",
        "float[1,64,8400] x, float[1,16,1,1] wp",
        whole("s", 1, 4, 16, 8400)
        + whole("d", 1, 4, 8400)
        + "a = Reshape(x, s)\n b = Transpose <perm = [0,2,1,3]> (a)\n c = Softmax <axis = 1> (b)\n"
        + "e = Conv <kernel_shape = [1,1]> (c, wp)\n y = Reshape(e, d)",
    ),
    block(
        "YOLOv8 scores 1x80x8400",
        "float[1,80,8400] x",
        whole("k", 1)
        + "a = Sigmoid(x)\n b = ReduceMax <keepdims = 0> (a, k)\n c = ArgMax <axis = 1, keepdims = 0> (a)\n"
        + "d = Cast <to = 1> (c)\n y = Add(b, d)",
    ),
    block(
        "Heatmap peaks 1x80x128x128",
        "float[1,80,128,128] x",
        "a = Sigmoid(x)\n"
        + "b = MaxPool <kernel_shape = [3,3], pads = [1,1,1,1]> (a)\n c = Equal(a, b)\n d = Cast <to = 1> (c)\n y = Mul(a, d)",
    ),
    block("ArgMax axis 1, 1x21x513x513", "float[1,21,513,513] x", "y = ArgMax <axis = 1> (x)", outputs="int64 y"),
    block("ArgMax last axis, 512x1000", "float[512,1000] x", "y = ArgMax <axis = 1> (x)", outputs="int64 y"),
    block("ArgMin last axis, 8x50257", "float[8,50257] x", "y = ArgMin <axis = 1> (x)", outputs="int64 y"),
    block("Softmax axis 1, 1x21x256x256", "float[1,21,256,256] x", "y = Softmax <axis = 1> (x)"),
    block("Softmax axis 2, 8x16x64x32", "float[8,16,64,32] x", "y = Softmax <axis = 2> (x)"),
    block("Softmax last axis, 3072x49", "float[3072,49] x", "y = Softmax <axis = 1> (x)"),
    block("LogSoftmax last axis, 64x6625", "float[64,6625] x", "y = LogSoftmax <axis = 1> (x)"),
    block("LayerNorm 3136x96", "float[3136,96] x, float[96] wg, float[96] wb", "y = LayerNormalization(x, wg, wb)"),
    block(
        "LayerNorm of channels 1x96x56x56",
        "float[1,96,56,56] x, float[96,1,1] wg, float[96,1,1] wb",
        whole("k", 1)
        + real("p", 2)
        + real("e", 1e-6)
        + "a = ReduceMean(x, k)\n b = Sub(x, a)\n c = Pow(b, p)\n d = ReduceMean(c, k)\n"
        + "f = Add(d, e)\n g = Sqrt(f)\n h = Div(b, g)\n i = Mul(h, wg)\n y = Add(i, wb)",
    ),
    block(
        "LayerNorm between transposes 1x96x56x56",
        "float[1,96,56,56] x, float[96] wg, float[96] wb",
        "a = Transpose <perm = [0,2,3,1]> (x)\n b = LayerNormalization(a, wg, wb)\n y = Transpose <perm = [0,3,1,2]> (b)",
    ),
    block(
        "RMSNorm 128x2048",
        "float[128,2048] x, float[2048] wg",
        whole("k", -1)
        + real("p", 2)
        + real("e", 1e-6)
        + "a = Pow(x, p)\n b = ReduceMean(a, k)\n c = Add(b, e)\n d = Sqrt(c)\n f = Reciprocal(d)\n g = Mul(x, f)\n"
        + "y = Mul(g, wg)",
    ),
    block(
        "GroupNorm 32, SiLU, 1x320x64x64",
        "float[1,320,64,64] x, float[32] ws, float[32] wz, float[320,1,1] wg, float[320,1,1] wb",
        whole("s", 0, 32, -1)
        + whole("d", 1, 320, 64, 64)
        + "a = Reshape(x, s)\n b = InstanceNormalization(a, ws, wz)\n c = Reshape(b, d)\n e = Mul(c, wg)\n f = Add(e, wb)\n"
        + "g = Sigmoid(f)\n y = Mul(f, g)",
    ),
    block(
        "GroupNorm operator 32, 1x1280x16x16",
        "float[1,1280,16,16] x, float[1280] wg, float[1280] wb",
        "y = GroupNormalization <num_groups = 32> (x, wg, wb)",
    ),
    block(
        "InstanceNorm 1x64x128x128",
        "float[1,64,128,128] x, float[64] wg, float[64] wb",
        "y = InstanceNormalization(x, wg, wb)",
    ),
    block(
        "UNet residual block 1x128x32x32",
        "float[1,128,32,32] x, float[1,128,1,1] t, float[32] wa, float[32] wz, "
        "float[128,1,1] wg, float[128,1,1] wb, float[128,128,3,3] wk, float[128] wc",
        whole("s", 0, 32, -1)
        + whole("d", 1, 128, 32, 32)
        + "a = Reshape(x, s)\n b = InstanceNormalization(a, wa, wz)\n c = Reshape(b, d)\n e = Mul(c, wg)\n f = Add(e, wb)\n"
        + "g = Sigmoid(f)\n h = Mul(f, g)\n i = Conv <kernel_shape = [3,3], pads = [1,1,1,1]> (h, wk, wc)\n"
        + "j = Add(i, t)\n y = Add(x, j)",
    ),
    block(
        "GEGLU 1024x1280",
        "float[1024,2560] x",
        "a, b = Split <axis = 1, num_outputs = 2> (x)\n c = Gelu(b)\n y = Mul(a, c)",
    ),
    block(
        "Gelu by Erf 3136x384",
        "float[3136,384] x",
        real("r", 1.4142135)
        + real("o", 1)
        + real("h", 0.5)
        + "a = Div(x, r)\n b = Erf(a)\n c = Add(b, o)\n d = Mul(x, c)\n y = Mul(d, h)",
    ),
    block("Gelu by Tanh 1024x1024", "float[1024,1024] x", 'y = Gelu <approximate = "tanh"> (x)'),
    block(
        "GLU of channels, Conformer 1x512x400",
        "float[1,512,400] x",
        "a, b = Split <axis = 1, num_outputs = 2> (x)\n c = Sigmoid(b)\n y = Mul(a, c)",
    ),
    block("CumSum last axis, 64x4096", "float[64,4096] x", whole("k", 1) + "y = CumSum(x, k)"),
    block("CumSum axis 1, 1x512x1024", "float[1,512,1024] x", whole("k", 1) + "y = CumSum(x, k)"),
    block("CumSum of a mask 1x64x64", "float[1,64,64] x", whole("k", 1) + "y = CumSum(x, k)"),
    block("ReduceMean axes 2 3, 1x512x28x28", "float[1,512,28,28] x", whole("k", 2, 3) + "y = ReduceMean(x, k)"),
    block("ReduceMean axes 1 2, 8x28x28x256", "float[8,28,28,256] x", whole("k", 1, 2) + "y = ReduceMean(x, k)"),
    block("ReduceSum axes 0 2, 64x128x96", "float[64,128,96] x", whole("k", 0, 2) + "y = ReduceSum(x, k)"),
    block("ReduceMax axis 1, 1x256x64x64", "float[1,256,64,64] x", whole("k", 1) + "y = ReduceMax(x, k)"),
    block(
        "ReduceL2 last axis, 512x768, normalised",
        "float[512,768] x",
        whole("k", -1) + "a = ReduceL2(x, k)\n y = Div(x, a)",
    ),
    block("ReduceSum whole 1x64x112x112", "float[1,64,112,112] x", "y = ReduceSum <keepdims = 0> (x)"),
    block(
        "CBAM maxima and means 1x128x56x56",
        "float[1,128,56,56] x",
        whole("k", 1) + "a = ReduceMean(x, k)\n b = ReduceMax(x, k)\n y = Concat <axis = 1> (a, b)",
    ),
    block(
        "Einsum bhid,bhjd->bhij 1x8x256x64",
        "float[1,8,256,64] x, float[1,8,256,64] z",
        'y = Einsum <equation = "bhid,bhjd->bhij"> (x, z)',
    ),
    block(
        "Einsum bhwc,hkc->bhwk 1x28x28x64",
        "float[1,28,28,64] x, float[28,28,64] z",
        'y = Einsum <equation = "bhwc,hkc->bhwk"> (x, z)',
    ),
    block(
        "Einsum nctw,cd->ndtw 1x64x64x25",
        "float[1,64,64,25] x, float[64,64] wd",
        'y = Einsum <equation = "nctw,cd->ndtw"> (x, wd)',
    ),
    block(
        "Einsum bqc,bchw->bqhw 1x100x256x64x64",
        "float[1,100,256] q, float[1,256,64,64] x",
        'y = Einsum <equation = "bqc,bchw->bqhw"> (q, x)',
    ),
    block(
        "Where of masked scores 12x256x256",
        "float[12,256,256] x, bool[1,1,256] m",
        real("l", -1e9) + "y = Where(m, l, x)",
    ),
    block(
        "Squeeze and excite 1x256x56x56", "float[1,256,56,56] x, float[1,256,1,1] s", "a = Sigmoid(s)\n y = Mul(x, a)"
    ),
    block(
        "Outer sum 512x1 and 1x512, Exp",
        "float[512,1,16] a, float[1,512,16] b",
        "c = Add(a, b)\n d = Neg(c)\n y = Exp(d)",
    ),
    block("HardSwish 1x240x28x28", "float[1,240,28,28] x", "y = HardSwish(x)"),
    block("Mish 1x128x52x52", "float[1,128,52,52] x", "y = Mish(x)"),
    block("PRelu 1x64x112x112", "float[1,64,112,112] x, float[64,1,1] ws", "y = PRelu(x, ws)"),
    block("ELU 1x64x112x112", "float[1,64,112,112] x", "y = Elu(x)"),
    block("Softplus 1x1024x512", "float[1,1024,512] x", "y = Softplus(x)"),
    block(
        "Snake 1x128x8000",
        "float[1,128,8000] x, float[1,128,1] wa, float[1,128,1] wi",
        real("p", 2) + "a = Mul(x, wa)\n b = Sin(a)\n c = Pow(b, p)\n d = Mul(c, wi)\n y = Add(x, d)",
    ),
    block(
        "Log of power spectrum 80x3000",
        "float[80,3000] x",
        real("e", 1e-10) + "a = Mul(x, x)\n b = Max(a, e)\n y = Log(b)",
    ),
    block("LRN 1x96x55x55", "float[1,96,55,55] x", "y = LRN <size = 5> (x)"),
    block(
        "ConvTranspose 2x2 stride 2, 256 to 128, 28x28",
        "float[1,256,28,28] x, float[256,128,2,2] wk, float[128] wb",
        "y = ConvTranspose <kernel_shape = [2,2], strides = [2,2]> (x, wk, wb)",
    ),
    block(
        "ConvTranspose 4x4 stride 2, 128 to 64, 32x32",
        "float[1,128,32,32] x, float[128,64,4,4] wk, float[64] wb",
        "y = ConvTranspose <kernel_shape = [4,4], strides = [2,2], pads = [1,1,1,1]> (x, wk, wb)",
    ),
    block(
        "ConvTranspose 1D 8 stride 4, 96 to 48, 1000",
        "float[1,96,1000] x, float[96,48,8] wk, float[48] wb",
        "y = ConvTranspose <kernel_shape = [8], strides = [4], pads = [2,2]> (x, wk, wb)",
    ),
    block(
        "ConvTranspose 1D 16 stride 8, 512 to 256, 100",
        "float[1,512,100] x, float[512,256,16] wk, float[256] wb",
        "y = ConvTranspose <kernel_shape = [16], strides = [8], pads = [4,4]> (x, wk, wb)",
    ),
    block(
        "Conv1D 7 dilated 3, 64 to 64, 4000",
        "float[1,64,4000] x, float[64,64,7] wk, float[64] wb",
        "y = Conv <kernel_shape = [7], dilations = [3], pads = [9,9]> (x, wk, wb)",
    ),
    block(
        "Conv1D 4 depthwise, causal, 1536, 197",
        "float[1,1536,197] x, float[1536,1,4] wk, float[1536] wb",
        "y = Conv <kernel_shape = [4], group = 1536, pads = [3,0]> (x, wk, wb)",
    ),
    block(
        "Conv1D 8 stride 4, Demucs 1 to 48, 32000",
        "float[1,2,32000] x, float[48,2,8] wk, float[48] wb",
        "y = Conv <kernel_shape = [8], strides = [4], pads = [2,2]> (x, wk, wb)",
    ),
    block(
        "MaxPool 3 stride 2, 1x64x112x112",
        "float[1,64,112,112] x",
        "y = MaxPool <kernel_shape = [3,3], strides = [2,2], pads = [1,1,1,1]> (x)",
    ),
    block(
        "AveragePool 1D 2, 1x64x8000", "float[1,64,8000] x", "y = AveragePool <kernel_shape = [2], strides = [2]> (x)"
    ),
    block(
        "Embedding sum, 384 tokens of 768",
        "int64[1,384] i, float[30522,768] wt, float[384,768] wp, float[768] wg, float[768] wb",
        "a = Gather <axis = 0> (wt, i)\n b = Add(a, wp)\n y = LayerNormalization(b, wg, wb)",
        30522,
    ),
    block("MatMul of windows 64x3x49x32", "float[64,3,49,32] q, float[64,3,32,49] k", "y = MatMul(q, k)"),
    block("MatMul 8x1024x64 and 8x64x256", "float[8,1024,64] q, float[8,64,256] k", "y = MatMul(q, k)"),
    block(
        "Attention of windows 64x3x49x32",
        "float[64,3,49,32] q, float[64,3,49,32] k, float[64,3,49,32] v, float[1,3,49,49] wb",
        "t = Transpose <perm = [0,1,3,2]> (k)\n a = MatMul(q, t)\n b = Add(a, wb)\n c = Softmax <axis = -1> (b)\n"
        + "y = MatMul(c, v)",
    ),
    block("Dequantised embedding 512x768", "uint8[512,768] x, float[768] ws", "a = Cast <to = 1> (x)\n y = Mul(a, ws)"),
)
"""What is measured."""
