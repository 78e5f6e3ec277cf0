"""Pieces of models that move elements: windows, heads, grids, borders, levels, caches."""

from __future__ import annotations

from head_text import block, real, whole

ROLL = (
    whole("a", 3) + whole("b", 0) + whole("e", 1000) + whole("h", 1) + whole("v", 2)
    + "p = Slice(x, a, e, h)\n q = Slice(x, b, a, h)\n r = Concat <axis = 1> (p, q)\n"
    + "s = Slice(r, a, e, v)\n t = Slice(r, b, a, v)\n u = Concat <axis = 2> (s, t)\n"
)  # fmt: skip

MOVEMENT = (
    block(
        "Swin windows of 7, 56x56x96",
        "float[1,56,56,96] x",
        whole("s", 1, 8, 7, 8, 7, 96)
        + whole("d", 64, 49, 96)
        + "a = Reshape(x, s)\n b = Transpose <perm = [0,1,3,2,4,5]> (a)\n y = Reshape(b, d)",
    ),
    block(
        "Swin rolled windows of 7, 56x56x96",
        "float[1,56,56,96] x",
        ROLL
        + whole("i", 1, 8, 7, 8, 7, 96)
        + whole("j", 64, 49, 96)
        + "k = Reshape(u, i)\n l = Transpose <perm = [0,1,3,2,4,5]> (k)\n y = Reshape(l, j)",
    ),
    block(
        "Swin merged patches, 56x56x96",
        "float[1,56,56,96] x, float[384] wg, float[384] wb, float[384,192] wm",
        whole("o", 0, 0)
        + whole("i", 1, 0)
        + whole("j", 0, 1)
        + whole("k", 1, 1)
        + whole("e", 1000, 1000)
        + whole("ax", 1, 2)
        + whole("st", 2, 2)
        + whole("sh", 1, 784, 384)
        + "a = Slice(x, o, e, ax, st)\n b = Slice(x, i, e, ax, st)\n c = Slice(x, j, e, ax, st)\n"
        + "d = Slice(x, k, e, ax, st)\n f = Concat <axis = -1> (a, b, c, d)\n g = Reshape(f, sh)\n"
        + "h = LayerNormalization(g, wg, wb)\n y = MatMul(h, wm)",
    ),
    block("Transpose 0231, 1x256x56x56", "float[1,256,56,56] x", "y = Transpose <perm = [0,2,3,1]> (x)"),
    block("Transpose 0312, 1x56x56x256", "float[1,56,56,256] x", "y = Transpose <perm = [0,3,1,2]> (x)"),
    block("Transpose 021, 1x85x8400", "float[1,85,8400] x", "y = Transpose <perm = [0,2,1]> (x)"),
    block("Transpose 0213, 1x197x12x64", "float[1,197,12,64] x", "y = Transpose <perm = [0,2,1,3]> (x)"),
    block("Transpose 0231, 1x197x12x64", "float[1,197,12,64] x", "y = Transpose <perm = [0,2,3,1]> (x)"),
    block("Transpose 3210, 16x24x32x40", "float[16,24,32,40] x", "y = Transpose <perm = [3,2,1,0]> (x)"),
    block("Transpose 20134, 3x8x12x49x32", "float[8,49,3,12,32] x", "y = Transpose <perm = [2,0,3,1,4]> (x)"),
    block(
        "YOLO grid 1x3x85x80x80",
        "float[1,255,80,80] x",
        whole("s", 1, 3, 85, 80, 80)
        + whole("d", 1, 19200, 85)
        + "a = Reshape(x, s)\n b = Transpose <perm = [0,1,3,4,2]> (a)\n c = Sigmoid(b)\n y = Reshape(c, d)",
    ),
    block(
        "RoPE halves 1x32x512x64",
        "float[1,32,512,64] x, float[512,64] wc, float[512,64] ws",
        "a, b = Split <axis = 3, num_outputs = 2> (x)\n c = Neg(b)\n d = Concat <axis = 3> (c, a)\n e = Mul(x, wc)\n"
        + "f = Mul(d, ws)\n y = Add(e, f)",
    ),
    block(
        "RoPE pairs 1x512x32x64",
        "float[1,512,32,64] x, float[512,1,32] wc, float[512,1,32] ws",
        whole("z", 0)
        + whole("o", 1)
        + whole("e", 1000)
        + whole("k", 3)
        + whole("t", 2)
        + whole("l", -1)
        + whole("sh", 1, 512, 32, 64)
        + "a = Slice(x, z, e, k, t)\n b = Slice(x, o, e, k, t)\n c = Mul(a, wc)\n d = Mul(b, ws)\n f = Sub(c, d)\n"
        + "g = Mul(a, ws)\n h = Mul(b, wc)\n i = Add(g, h)\n j = Unsqueeze(f, l)\n k2 = Unsqueeze(i, l)\n"
        + "m = Concat <axis = -1> (j, k2)\n y = Reshape(m, sh)",
    ),
    block(
        "Cache of keys 1x12x512x64 and one", "float[1,12,512,64] p, float[1,12,1,64] x", "y = Concat <axis = 2> (p, x)"
    ),
    block(
        "Repeated heads 1x8x512x64 to 32",
        "float[1,8,512,64] x",
        whole("u", 2)
        + whole("s", 1, 8, 4, 512, 64)
        + whole("d", 1, 32, 512, 64)
        + "a = Unsqueeze(x, u)\n b = Expand(a, s)\n y = Reshape(b, d)",
    ),
    block(
        "Channel shuffle 1x116x28x28",
        "float[1,116,28,28] x",
        whole("s", 1, 2, 58, 28, 28)
        + whole("d", 1, 116, 28, 28)
        + "a = Reshape(x, s)\n b = Transpose <perm = [0,2,1,3,4]> (a)\n y = Reshape(b, d)",
    ),
    block(
        "DepthToSpace CRD 2, 1x256x128x128",
        "float[1,256,128,128] x",
        'y = DepthToSpace <blocksize = 2, mode = "CRD"> (x)',
    ),
    block("DepthToSpace DCR 4, 1x48x180x320", "float[1,48,180,320] x", "y = DepthToSpace <blocksize = 4> (x)"),
    block("SpaceToDepth 2, 1x12x320x320", "float[1,12,320,320] x", "y = SpaceToDepth <blocksize = 2> (x)"),
    block(
        "Focus slices 1x3x640x640",
        "float[1,3,640,640] x",
        whole("o", 0)
        + whole("i", 1)
        + whole("e", 1000)
        + whole("h", 2)
        + whole("v", 3)
        + whole("t", 2)
        + "a = Slice(x, o, e, h, t)\n b = Slice(x, i, e, h, t)\n c = Slice(a, o, e, v, t)\n d = Slice(b, o, e, v, t)\n"
        + "f = Slice(a, i, e, v, t)\n g = Slice(b, i, e, v, t)\n y = Concat <axis = 1> (c, d, f, g)",
    ),
    block(
        "Resize linear x2, 1x256x32x32",
        "float[1,256,32,32] x",
        real("s", 1, 1, 2, 2) + 'y = Resize <mode = "linear"> (x, , s)',
    ),
    block(
        "Resize linear x4, 1x21x128x128",
        "float[1,21,128,128] x",
        real("s", 1, 1, 4, 4)
        + 'y = Resize <mode = "linear", coordinate_transformation_mode = "align_corners"> (x, , s)',
    ),
    block(
        "Resize linear x8, 1x150x64x64",
        "float[1,150,64,64] x",
        real("s", 1, 1, 8, 8) + 'y = Resize <mode = "linear"> (x, , s)',
    ),
    block(
        "Resize nearest x2, 1x128x80x80",
        "float[1,128,80,80] x",
        real("s", 1, 1, 2, 2)
        + 'y = Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"> (x, , s)',
    ),
    block(
        "Resize cubic x2, 1x32x64x64",
        "float[1,32,64,64] x",
        real("s", 1, 1, 2, 2) + 'y = Resize <mode = "cubic"> (x, , s)',
    ),
    block(
        "Resize linear to 224, 1x3x480x640",
        "float[1,3,480,640] x",
        whole("s", 1, 3, 224, 224) + 'y = Resize <mode = "linear"> (x, , , s)',
    ),
    block(
        "Pad reflect 3, 1x64x128x128",
        "float[1,64,128,128] x",
        whole("p", 0, 0, 3, 3, 0, 0, 3, 3) + 'y = Pad <mode = "reflect"> (x, p)',
    ),
    block(
        "Pad edge 3, 1x64x128x128",
        "float[1,64,128,128] x",
        whole("p", 0, 0, 3, 3, 0, 0, 3, 3) + 'y = Pad <mode = "edge"> (x, p)',
    ),
    block(
        "Pad constant, 1x56x56x96 to 63x63", "float[1,56,56,96] x", whole("p", 0, 0, 0, 0, 0, 7, 7, 0) + "y = Pad(x, p)"
    ),
    block(
        "Pad reflect of sound, 1x1x160000",
        "float[1,1,160000] x",
        whole("p", 0, 0, 200, 0, 0, 200) + 'y = Pad <mode = "reflect"> (x, p)',
    ),
    block(
        "Split in 3, 197x2304 by columns",
        "float[197,2304] x",
        "a, b, c = Split <axis = 1, num_outputs = 3> (x)",
        outputs="float a, float b, float c",
    ),
    block(
        "Concat of 4, 1x64x80x80 by channels",
        "float[1,64,80,80] a, float[1,64,80,80] b, float[1,64,80,80] c, float[1,64,80,80] d",
        "y = Concat <axis = 1> (a, b, c, d)",
    ),
    block(
        "Concat of 3 levels, 1x144x8400",
        "float[1,144,80,80] a, float[1,144,40,40] b, float[1,144,20,20] c",
        whole("s", 1, 144, -1)
        + "d = Reshape(a, s)\n e = Reshape(b, s)\n f = Reshape(c, s)\n y = Concat <axis = 2> (d, e, f)",
    ),
    block(
        "Concat of columns, 8400x4 three times",
        "float[8400,4] a, float[8400,1] b, float[8400,80] c",
        "y = Concat <axis = 1> (a, b, c)",
    ),
    block("Tile 1x1x256 to 1000 rows", "float[1,1,256] x", whole("r", 1, 1000, 1) + "y = Tile(x, r)"),
    block("Tile 1x64x1x1 to 64x64", "float[1,64,1,1] x", whole("r", 1, 1, 64, 64) + "y = Tile(x, r)"),
    block(
        "GatherElements of boxes 1x300 of 8400x4",
        "float[1,8400,4] x, int64[1,300,1] i",
        whole("s", 1, 300, 4) + "a = Expand(i, s)\n y = GatherElements <axis = 1> (x, a)",
        8400,
    ),
    block(
        "ScatterElements 256x300 into 1000",
        "float[256,1000] x, int64[256,300] i, float[256,300] u",
        'y = ScatterElements <axis = 1, reduction = "add"> (x, i, u)',
        1000,
    ),
    block(
        "ScatterND added, 1000 of 256 into 4000",
        "float[4000,256] x, int64[1000,1] i, float[1000,256] u",
        'y = ScatterND <reduction = "add"> (x, i, u)',
        4000,
    ),
    block("OneHot 512 of 1000", "int64[512] x", whole("d", 1000) + real("v", 0, 1) + "y = OneHot(x, d, v)", 1000),
    block("NonZero 640x640", "bool[640,640] x", "y = NonZero(x)", outputs="int64 y"),
    block(
        "Relative positions 12x49x49",
        "float[64,12,49,49] x, float[169,12] wt, int64[2401] wi",
        whole("s", 49, 49, 12)
        + "a = Gather <axis = 0> (wt, wi)\n b = Reshape(a, s)\n"
        + "c = Transpose <perm = [2,0,1]> (b)\n y = Add(x, c)",
        169,
    ),
    block("Gather of columns 1x197x768", "float[1,197,768] x, int64[384] wi", "y = Gather <axis = 2> (x, wi)", 768),
    block("Trilu 512x512", "float[1,512,512] x", "y = Trilu <upper = 1> (x)"),
    block(
        "Clip of boxes 8400x4",
        "float[8400,4] x",
        "a, b = Split <axis = 1, num_outputs = 2> (x)\n c = Exp(b)\n"
        + "d = Sub(a, c)\n e = Add(a, c)\n"
        + "y = Concat <axis = 1> (d, e)",
    ),
    block(
        "Image to float, 480x640x3 NHWC",
        "uint8[1,480,640,3] x",
        real("m", 123.7, 116.3, 103.5)
        + real("d", 58.4, 57.1, 57.4)
        + "a = Cast <to = 1> (x)\n b = Sub(a, m)\n c = Div(b, d)\n y = Transpose <perm = [0,3,1,2]> (c)",
    ),
)
"""What is measured."""
