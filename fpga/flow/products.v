// Multiplications as sums of the products that DSPs make, for fpga/flow/equivalence.py. A `product` has no content: it is
// what the proof cuts out; `too_wide` is a cell that no proof passes. With SMALL the parts are 4 bits, so that a
// solver can check these sums against `*`.

`ifdef SMALL
`define ECP5 4
`define ICE40 4
`else
`define ECP5 18
`define ICE40 16
`endif

// The multiplication itself: in the model of a DSP.
module whole(A, B, Y);
  parameter A_SIGNED = 0, B_SIGNED = 0, A_WIDTH = 1, B_WIDTH = 1, Y_WIDTH = 1;
  input [A_WIDTH-1:0] A;
  input [B_WIDTH-1:0] B;
  output [Y_WIDTH-1:0] Y;
  localparam S = A_SIGNED && B_SIGNED;
  wire [18:0] a = {{19{S & A[A_WIDTH-1]}}, A}, b = {{19{S & B[B_WIDTH-1]}}, B};
  wire [37:0] p;
  generate if (A_WIDTH > 19 || B_WIDTH > 19) too_wide error(); endgenerate
  product only(.a(a), .b(b), .p(p));
  assign Y = p;
endmodule

// ECP5: the wider operand in two parts, the lower one unsigned.
module ecp5(A, B, Y);
  parameter A_SIGNED = 0, B_SIGNED = 0, A_WIDTH = 1, B_WIDTH = 1, Y_WIDTH = 1;
  input [A_WIDTH-1:0] A;
  input [B_WIDTH-1:0] B;
  output [Y_WIDTH-1:0] Y;
  localparam S = A_SIGNED && B_SIGNED, P = `ECP5, LOW = P + B_WIDTH, HIGH = A_WIDTH + B_WIDTH - P;
  generate
    if (A_WIDTH < B_WIDTH)
      \$mul #(.A_SIGNED(B_SIGNED), .B_SIGNED(A_SIGNED), .A_WIDTH(B_WIDTH), .B_WIDTH(A_WIDTH), .Y_WIDTH(Y_WIDTH))
        swapped(.A(B), .B(A), .Y(Y));
    else if (A_WIDTH > 2 * P || B_WIDTH > P)
      too_wide error();
    else begin
      wire [18:0] b = {{19{S & B[B_WIDTH-1]}}, B};
      if (A_WIDTH > P) begin
        wire [18:0] a = {{19{S & A[A_WIDTH-1]}}, A[A_WIDTH-1:P]};
        wire [37:0] high, low;
        product high_(.a(a), .b(b), .p(high));
        product low_(.a({1'b0, A[P-1:0]}), .b(b), .p(low));
        assign Y = {{Y_WIDTH{S & low[LOW-1]}}, low[LOW-1:0]} + ({{Y_WIDTH{S & high[HIGH-1]}}, high[HIGH-1:0]} << P);
      end else begin
        wire [18:0] a = {{19{S & A[A_WIDTH-1]}}, A};
        wire [37:0] p;
        product only(.a(a), .b(b), .p(p));
        assign Y = {{Y_WIDTH{S & p[A_WIDTH+B_WIDTH-1]}}, p[A_WIDTH+B_WIDTH-1:0]};
      end
    end
  endgenerate
endmodule

// iCE40: both operands in two parts of 16 bits, the lower one unsigned. A part of one bit above them needs no DSP,
// and of the narrower operand more than one bit has no place.
module ice40(A, B, Y);
  parameter A_SIGNED = 0, B_SIGNED = 0, A_WIDTH = 1, B_WIDTH = 1, Y_WIDTH = 1;
  input [A_WIDTH-1:0] A;
  input [B_WIDTH-1:0] B;
  output [Y_WIDTH-1:0] Y;
  localparam S = A_SIGNED && B_SIGNED, P = `ICE40, SA = S && A_WIDTH <= P, SB = S && B_WIDTH <= P;
  generate
    if (A_WIDTH < B_WIDTH)
      \$mul #(.A_SIGNED(B_SIGNED), .B_SIGNED(A_SIGNED), .A_WIDTH(B_WIDTH), .B_WIDTH(A_WIDTH), .Y_WIDTH(Y_WIDTH))
        swapped(.A(B), .B(A), .Y(Y));
    else if (A_WIDTH > 2 * P || B_WIDTH > P + 1)
      too_wide error();
    else begin
      wire signed [2*P:0] a = {{2*P{S & A[A_WIDTH-1]}}, A};
      wire signed [P:0] b = {{P{S & B[B_WIDTH-1]}}, B};
      // what the lower part of B is as a number, and its product with the lower part of A
      wire signed [P:0] b_low = {SB & b[P-1], b[P-1:0]};
      wire [2*P-1:0] low, high;
      ice40_mac #(.A_SIGNED(SA), .B_SIGNED(SB)) low_(.a(a[P-1:0]), .b(b[P-1:0]), .y(low));
      wire signed [2*P:0] x = {(SA || SB) & low[2*P-1], low};
      wire signed [2*P:0] y;
      if (A_WIDTH > P + 1) begin
        ice40_mac #(.A_SIGNED(S), .B_SIGNED(SB)) high_(.a(a[2*P-1:P]), .b(b[P-1:0]), .y(high));
        assign y = {S & high[2*P-1], high};
      end else if (A_WIDTH > P)
        assign y = a[P] ? (S ? -b_low : b_low) : 0;
      else
        assign y = 0;
      wire signed [4*P:0] above = B_WIDTH <= P || !b[P] ? 0 : S ? -a : a;
      wire signed [4*P:0] sum = x + (y <<< P) + (above <<< P);
      assign Y = sum;
    end
  endgenerate
endmodule

// SB_MAC16, in the order of its model's lines.
module ice40_mac(a, b, y);
  parameter A_SIGNED = 0, B_SIGNED = 0;
  localparam P = `ICE40, H = P / 2;
  input [P-1:0] a, b;
  output [2*P-1:0] y;
  wire [P-1:0] ah = {{H{A_SIGNED & a[P-1]}}, a[P-1:H]}, al = a[H-1:0];
  wire [P-1:0] bh = {{H{B_SIGNED & b[P-1]}}, b[P-1:H]}, bl = b[H-1:0];
  wire [37:0] f, j, k, g;
  product p0(.a({3'b0, ah}), .b({3'b0, bh}), .p(f));
  product p1(.a({3'b0, al}), .b({3'b0, bh}), .p(j));
  product p2(.a({3'b0, ah}), .b({3'b0, bl}), .p(k));
  product p3(.a({3'b0, al}), .b({3'b0, bl}), .p(g));
  wire [P+H-1:0] k_e = {{H{A_SIGNED & k[P-1]}}, k[P-1:0]}, j_e = {{H{B_SIGNED & j[P-1]}}, j[P-1:0]};
  assign y = g[P-1:0] + (k_e << H) + (j_e << H) + (f[P-1:0] << P);
endmodule
