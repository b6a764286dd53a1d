;; The loops that take the time, for WebAssembly with 128-bit SIMD. All addresses and lengths are in bytes.
;;
;; `python demo/assemble.py` makes kernel.js of it, twice: once as it stands, with a multiplication and an addition in one
;; instruction (relaxed SIMD), and once with the two apart, for browsers that have not got it.
(module
  (import "demo" "memory" (memory 1))

  ;; y = x * w + bias, where rows of x are taken as a table says: a convolution reads `taps` rows of x for each position
  ;; (nine, for 3 x 3), a linear layer one. Row -1 is zeros: the picture's rim. In registers: 4 positions (a block, rows
  ;; of y) by 8 channels (a panel, columns of w), eight vectors $y<position><half>. More of them were slower everywhere.
  (func (export "gemm")
    (param $x i32) (param $table i32) (param $taps i32) (param $pitch i32) (param $length i32)
    (param $w i32) (param $bias i32) (param $y i32) (param $ypitch i32) (param $blocks i32) (param $panels i32)
    (local $i i32) (local $t i32) (local $at i32) (local $out i32) (local $v i32) (local $end i32)
    (local $a0 i32) (local $a1 i32) (local $a2 i32) (local $a3 i32)
    (local $w0 v128) (local $w1 v128) (local $s v128)
    (local $y00 v128) (local $y01 v128) (local $y10 v128) (local $y11 v128)
    (local $y20 v128) (local $y21 v128) (local $y30 v128) (local $y31 v128)
    (loop $panel
      (local.set $i (local.get $blocks)) (local.set $at (local.get $table)) (local.set $out (local.get $y))
      (loop $block
        (local.set $v (local.get $w)) (local.set $t (local.get $taps))
        (local.set $y00 (v128.load (local.get $bias))) (local.set $y01 (v128.load offset=16 (local.get $bias)))
        (local.set $y10 (local.get $y00)) (local.set $y11 (local.get $y01))
        (local.set $y20 (local.get $y00)) (local.set $y21 (local.get $y01))
        (local.set $y30 (local.get $y00)) (local.set $y31 (local.get $y01))
        (loop $tap
          ;; where the four rows begin
          (local.set $a0 (i32.add (local.get $x) (i32.mul (local.get $pitch) (i32.load offset=0 (local.get $at)))))
          (local.set $a1 (i32.add (local.get $x) (i32.mul (local.get $pitch) (i32.load offset=4 (local.get $at)))))
          (local.set $a2 (i32.add (local.get $x) (i32.mul (local.get $pitch) (i32.load offset=8 (local.get $at)))))
          (local.set $a3 (i32.add (local.get $x) (i32.mul (local.get $pitch) (i32.load offset=12 (local.get $at)))))
          (local.set $at (i32.add (local.get $at) (i32.const 16)))
          (local.set $end (i32.add (local.get $a0) (local.get $length)))
          (loop $channel
            (local.set $w0 (v128.load (local.get $v))) (local.set $w1 (v128.load offset=16 (local.get $v)))
            (local.set $s (v128.load32_splat (local.get $a0)))
            (local.set $y00 (f32x4.relaxed_madd (local.get $s) (local.get $w0) (local.get $y00)))
            (local.set $y01 (f32x4.relaxed_madd (local.get $s) (local.get $w1) (local.get $y01)))
            (local.set $s (v128.load32_splat (local.get $a1)))
            (local.set $y10 (f32x4.relaxed_madd (local.get $s) (local.get $w0) (local.get $y10)))
            (local.set $y11 (f32x4.relaxed_madd (local.get $s) (local.get $w1) (local.get $y11)))
            (local.set $s (v128.load32_splat (local.get $a2)))
            (local.set $y20 (f32x4.relaxed_madd (local.get $s) (local.get $w0) (local.get $y20)))
            (local.set $y21 (f32x4.relaxed_madd (local.get $s) (local.get $w1) (local.get $y21)))
            (local.set $s (v128.load32_splat (local.get $a3)))
            (local.set $y30 (f32x4.relaxed_madd (local.get $s) (local.get $w0) (local.get $y30)))
            (local.set $y31 (f32x4.relaxed_madd (local.get $s) (local.get $w1) (local.get $y31)))
            (local.set $v (i32.add (local.get $v) (i32.const 32)))
            (local.set $a0 (i32.add (local.get $a0) (i32.const 4)))
            (local.set $a1 (i32.add (local.get $a1) (i32.const 4)))
            (local.set $a2 (i32.add (local.get $a2) (i32.const 4)))
            (local.set $a3 (i32.add (local.get $a3) (i32.const 4)))
            (br_if $channel (i32.lt_u (local.get $a0) (local.get $end))))
          (br_if $tap (local.tee $t (i32.sub (local.get $t) (i32.const 1)))))
        (v128.store (local.get $out) (local.get $y00)) (v128.store offset=16 (local.get $out) (local.get $y01))
        (local.set $out (i32.add (local.get $out) (local.get $ypitch)))
        (v128.store (local.get $out) (local.get $y10)) (v128.store offset=16 (local.get $out) (local.get $y11))
        (local.set $out (i32.add (local.get $out) (local.get $ypitch)))
        (v128.store (local.get $out) (local.get $y20)) (v128.store offset=16 (local.get $out) (local.get $y21))
        (local.set $out (i32.add (local.get $out) (local.get $ypitch)))
        (v128.store (local.get $out) (local.get $y30)) (v128.store offset=16 (local.get $out) (local.get $y31))
        (local.set $out (i32.add (local.get $out) (local.get $ypitch)))
        (br_if $block (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))
      (local.set $w (local.get $v))
      (local.set $bias (i32.add (local.get $bias) (i32.const 32))) (local.set $y (i32.add (local.get $y) (i32.const 32)))
      (br_if $panel (local.tee $panels (i32.sub (local.get $panels) (i32.const 1))))))

  ;; The two ends of Winograd's convolution (`Conv2d` in tensors.js says what it is). Both work on 16 matrices, `step` apart, of
  ;; which row i belongs to tile i, and go along the rows of a tile's 4 x 4 places first, then along its columns.
  ;;
  ;; B' of four runs of `pitch` bytes each: $a - $c, $b + $c, $c - $b, $b - $d, to four runs that are `step` apart.
  (func $spread_four (param $a i32) (param $b i32) (param $c i32) (param $d i32) (param $y i32) (param $step i32) (param $pitch i32)
    (local $end i32) (local $out i32) (local $va v128) (local $vb v128) (local $vc v128) (local $vd v128)
    (local.set $end (i32.add (local.get $y) (local.get $pitch)))
    (loop $four
      (local.set $va (v128.load (local.get $a))) (local.set $vb (v128.load (local.get $b)))
      (local.set $vc (v128.load (local.get $c))) (local.set $vd (v128.load (local.get $d)))
      (v128.store (local.get $y) (f32x4.sub (local.get $va) (local.get $vc)))
      (local.set $out (i32.add (local.get $y) (local.get $step)))
      (v128.store (local.get $out) (f32x4.add (local.get $vb) (local.get $vc)))
      (local.set $out (i32.add (local.get $out) (local.get $step)))
      (v128.store (local.get $out) (f32x4.sub (local.get $vc) (local.get $vb)))
      (v128.store (i32.add (local.get $out) (local.get $step)) (f32x4.sub (local.get $vb) (local.get $vd)))
      (local.set $a (i32.add (local.get $a) (i32.const 16))) (local.set $b (i32.add (local.get $b) (i32.const 16)))
      (local.set $c (i32.add (local.get $c) (i32.const 16))) (local.set $d (i32.add (local.get $d) (i32.const 16)))
      (br_if $four (i32.lt_u (local.tee $y (i32.add (local.get $y) (i32.const 16))) (local.get $end)))))
  ;; Each tile's 4 x 4 rows of x, which the table picks, to its row of each matrix. A table has blocks of four tiles.
  (func (export "spread")
    (param $x i32) (param $table i32) (param $pitch i32) (param $y i32) (param $step i32) (param $tiles i32)
    (local $i i32) (local $k i32) (local $at i32) (local $out i32) (local $down i32)
    (local.set $down (i32.shl (local.get $step) (i32.const 2)))  ;; from a place to the one below it
    (loop $tile
      (local.set $at (i32.add (i32.add (local.get $table) (i32.mul (i32.const 256) (i32.shr_u (local.get $i) (i32.const 2))))
        (i32.mul (i32.const 4) (i32.and (local.get $i) (i32.const 3)))))
      (local.set $out (local.get $y)) (local.set $k (i32.const 4))
      (loop $row
        (call $spread_four
          (i32.add (local.get $x) (i32.mul (local.get $pitch) (i32.load offset=0 (local.get $at))))
          (i32.add (local.get $x) (i32.mul (local.get $pitch) (i32.load offset=16 (local.get $at))))
          (i32.add (local.get $x) (i32.mul (local.get $pitch) (i32.load offset=32 (local.get $at))))
          (i32.add (local.get $x) (i32.mul (local.get $pitch) (i32.load offset=48 (local.get $at))))
          (local.get $out) (local.get $step) (local.get $pitch))
        (local.set $at (i32.add (local.get $at) (i32.const 64))) (local.set $out (i32.add (local.get $out) (local.get $down)))
        (br_if $row (local.tee $k (i32.sub (local.get $k) (i32.const 1)))))
      (local.set $out (local.get $y)) (local.set $k (i32.const 4))
      (loop $column
        (call $spread_four (local.get $out) (local.tee $at (i32.add (local.get $out) (local.get $down)))
          (local.tee $at (i32.add (local.get $at) (local.get $down))) (i32.add (local.get $at) (local.get $down))
          (local.get $out) (local.get $down) (local.get $pitch))
        (local.set $out (i32.add (local.get $out) (local.get $step)))
        (br_if $column (local.tee $k (i32.sub (local.get $k) (i32.const 1)))))
      (local.set $y (i32.add (local.get $y) (local.get $pitch)))
      (br_if $tile (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $tiles)))))

  ;; A' of four runs, `step` apart: $x + the second + the third, the second - the third - the fourth, each + bias; to two.
  (func $join_four (param $x i32) (param $step i32) (param $bias i32) (param $y i32) (param $below i32) (param $pitch i32)
    (local $end i32) (local $at i32) (local $vb v128) (local $vc v128) (local $bias4 v128)
    (local.set $end (i32.add (local.get $x) (local.get $pitch)))
    (loop $four
      (local.set $vb (v128.load (local.tee $at (i32.add (local.get $x) (local.get $step)))))
      (local.set $vc (v128.load (local.tee $at (i32.add (local.get $at) (local.get $step)))))
      (local.set $bias4 (v128.load (local.get $bias)))
      (v128.store (local.get $y)
        (f32x4.add (f32x4.add (f32x4.add (v128.load (local.get $x)) (local.get $vb)) (local.get $vc)) (local.get $bias4)))
      (v128.store (i32.add (local.get $y) (local.get $below)) (f32x4.add (f32x4.sub (f32x4.sub (local.get $vb) (local.get $vc))
        (v128.load (i32.add (local.get $at) (local.get $step)))) (local.get $bias4)))
      (local.set $y (i32.add (local.get $y) (i32.const 16))) (local.set $bias (i32.add (local.get $bias) (i32.const 16)))
      (br_if $four (i32.lt_u (local.tee $x (i32.add (local.get $x) (i32.const 16))) (local.get $end)))))
  ;; Each tile's row of each matrix to its 2 x 2 rows of y. Tiles are counted from `first` on, `columns` of them in a row of
  ;; the picture. `zero` is a bias of zeros.
  (func (export "join")
    (param $x i32) (param $step i32) (param $pitch i32) (param $zero i32) (param $bias i32) (param $y i32)
    (param $first i32) (param $tiles i32) (param $columns i32)
    (local $k i32) (local $at i32) (local $out i32) (local $wide i32)
    (local.set $wide (i32.mul (i32.mul (i32.const 2) (local.get $columns)) (local.get $pitch)))  ;; a row of the picture
    (local.set $tiles (i32.add (local.get $tiles) (local.get $first)))
    (loop $tile
      (local.set $at (local.get $x)) (local.set $k (i32.const 4))
      (loop $column
        (call $join_four (local.get $at) (i32.shl (local.get $step) (i32.const 2)) (local.get $zero)
          (local.get $at) (i32.shl (local.get $step) (i32.const 2)) (local.get $pitch))
        (local.set $at (i32.add (local.get $at) (local.get $step)))
        (br_if $column (local.tee $k (i32.sub (local.get $k) (i32.const 1)))))
      (local.set $out (i32.add (local.get $y) (i32.mul (i32.const 2) (i32.add
        (i32.mul (local.get $wide) (i32.div_u (local.get $first) (local.get $columns)))
        (i32.mul (local.get $pitch) (i32.rem_u (local.get $first) (local.get $columns)))))))
      (call $join_four (local.get $x) (local.get $step) (local.get $bias) (local.get $out) (local.get $pitch) (local.get $pitch))
      (call $join_four (i32.add (local.get $x) (i32.shl (local.get $step) (i32.const 2))) (local.get $step) (local.get $bias)
        (i32.add (local.get $out) (local.get $wide)) (local.get $pitch) (local.get $pitch))
      (local.set $x (i32.add (local.get $x) (local.get $pitch)))
      (br_if $tile (i32.lt_u (local.tee $first (i32.add (local.get $first) (i32.const 1))) (local.get $tiles)))))

  ;; y = scale * x + shift, and then, if asked, silu: y / (1 + exp(-y)); for `rows` rows of `width` bytes.
  ;; exp as in Cephes' expf: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2].
  (func (export "affine")
    (param $x i32) (param $y i32) (param $rows i32) (param $width i32) (param $scale i32) (param $shift i32)
    (param $silu i32)
    (local $c i32) (local $v v128) (local $e v128) (local $n v128) (local $r v128)
    (loop $row
      (local.set $c (i32.const 0))
      (loop $four
        (local.set $v (f32x4.add
          (f32x4.mul (v128.load (local.get $x)) (v128.load (i32.add (local.get $scale) (local.get $c))))
          (v128.load (i32.add (local.get $shift) (local.get $c)))))
        (if (local.get $silu) (then
          (local.set $e (f32x4.max (f32x4.min (f32x4.neg (local.get $v)) (f32x4.splat (f32.const 87)))
            (f32x4.splat (f32.const -87))))
          (local.set $n (f32x4.nearest (f32x4.mul (local.get $e) (f32x4.splat (f32.const 1.44269504)))))
          (local.set $r (f32x4.sub
            (f32x4.sub (local.get $e) (f32x4.mul (local.get $n) (f32x4.splat (f32.const 0.693359375))))
            (f32x4.mul (local.get $n) (f32x4.splat (f32.const -2.12194440e-4)))))
          (local.set $e (f32x4.splat (f32.const 1.9875691500e-4)))
          (local.set $e (f32x4.relaxed_madd (local.get $e) (local.get $r) (f32x4.splat (f32.const 1.3981999507e-3))))
          (local.set $e (f32x4.relaxed_madd (local.get $e) (local.get $r) (f32x4.splat (f32.const 8.3334519073e-3))))
          (local.set $e (f32x4.relaxed_madd (local.get $e) (local.get $r) (f32x4.splat (f32.const 4.1665795894e-2))))
          (local.set $e (f32x4.relaxed_madd (local.get $e) (local.get $r) (f32x4.splat (f32.const 1.6666665459e-1))))
          (local.set $e (f32x4.relaxed_madd (local.get $e) (local.get $r) (f32x4.splat (f32.const 5.0000001201e-1))))
          (local.set $e (f32x4.add (f32x4.splat (f32.const 1)) (f32x4.add (local.get $r)
            (f32x4.mul (local.get $e) (f32x4.mul (local.get $r) (local.get $r))))))
          (local.set $e (i32x4.add (local.get $e) (i32x4.shl (i32x4.trunc_sat_f32x4_s (local.get $n)) (i32.const 23))))
          (local.set $v (f32x4.div (local.get $v) (f32x4.add (local.get $e) (f32x4.splat (f32.const 1)))))))
        (v128.store (local.get $y) (local.get $v))
        (local.set $x (i32.add (local.get $x) (i32.const 16))) (local.set $y (i32.add (local.get $y) (i32.const 16)))
        (br_if $four (i32.lt_u (local.tee $c (i32.add (local.get $c) (i32.const 16))) (local.get $width))))
      (br_if $row (local.tee $rows (i32.sub (local.get $rows) (i32.const 1))))))

  ;; x = x + y, `length` bytes
  (func (export "add") (param $x i32) (param $y i32) (param $length i32)
    (local.set $length (i32.add (local.get $x) (local.get $length)))
    (loop $four
      (v128.store (local.get $x) (f32x4.add (v128.load (local.get $x)) (v128.load (local.get $y))))
      (local.set $y (i32.add (local.get $y) (i32.const 16)))
      (br_if $four (i32.lt_u (local.tee $x (i32.add (local.get $x) (i32.const 16))) (local.get $length)))))

  ;; Of each channel, the sum over all rows and the sum of squares, as float64: `width` bytes of floats to twice as many
  ;; at $sum, and as many at $square.
  (func (export "moments")
    (param $x i32) (param $rows i32) (param $width i32) (param $pitch i32) (param $sum i32) (param $square i32)
    (local $c i32) (local $i i32) (local $at i32) (local $v v128) (local $s v128) (local $q v128)
    (loop $two
      (local.set $at (i32.add (local.get $x) (local.get $c))) (local.set $i (local.get $rows))
      (local.set $s (f64x2.splat (f64.const 0))) (local.set $q (f64x2.splat (f64.const 0)))
      (loop $row
        (local.set $v (f64x2.promote_low_f32x4 (v128.load64_zero (local.get $at))))
        (local.set $s (f64x2.add (local.get $s) (local.get $v)))
        (local.set $q (f64x2.add (local.get $q) (f64x2.mul (local.get $v) (local.get $v))))
        (local.set $at (i32.add (local.get $at) (local.get $pitch)))
        (br_if $row (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))
      (v128.store (local.get $sum) (local.get $s)) (v128.store (local.get $square) (local.get $q))
      (local.set $sum (i32.add (local.get $sum) (i32.const 16))) (local.set $square (i32.add (local.get $square) (i32.const 16)))
      (br_if $two (i32.lt_u (local.tee $c (i32.add (local.get $c) (i32.const 8))) (local.get $width))))))
