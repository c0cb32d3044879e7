// Memories of several ECP5 block RAMs in depth; see fpga/flow/deep_memories.py.

// Before block RAMs are chosen: a memory that 2 048 words of 9 bits make with multiplexers becomes columns, as many as
// the same number of block RAMs can hold in a narrower and deeper shape.
`ifdef COLUMNS
(* techmap_celltype = "$mem_v2" *)
module deep_columns (RD_CLK, RD_EN, RD_ARST, RD_SRST, RD_ADDR, RD_DATA, WR_CLK, WR_EN, WR_ADDR, WR_DATA);
  parameter MEMID = "";
  parameter signed SIZE = 4;
  parameter signed OFFSET = 0;
  parameter signed ABITS = 2;
  parameter signed WIDTH = 8;
  parameter signed INIT = 1'bx;
  parameter signed RD_PORTS = 1;
  parameter RD_CLK_ENABLE = 1'b1;
  parameter RD_CLK_POLARITY = 1'b1;
  parameter RD_TRANSPARENCY_MASK = 1'b0;
  parameter RD_COLLISION_X_MASK = 1'b0;
  parameter RD_WIDE_CONTINUATION = 1'b0;
  parameter RD_CE_OVER_SRST = 1'b0;
  parameter RD_ARST_VALUE = 1'b0;
  parameter RD_SRST_VALUE = 1'b0;
  parameter RD_INIT_VALUE = 1'b0;
  parameter signed WR_PORTS = 1;
  parameter WR_CLK_ENABLE = 1'b1;
  parameter WR_CLK_POLARITY = 1'b1;
  parameter WR_PRIORITY_MASK = 1'b0;
  parameter WR_WIDE_CONTINUATION = 1'b0;
  parameter _TECHMAP_BITS_CONNMAP_ = 0;
  parameter [WR_PORTS*WIDTH*_TECHMAP_BITS_CONNMAP_-1:0] _TECHMAP_CONNMAP_WR_EN_ = 0;

  input [RD_PORTS-1:0] RD_CLK, RD_EN, RD_ARST, RD_SRST;
  input [RD_PORTS*ABITS-1:0] RD_ADDR;
  output [RD_PORTS*WIDTH-1:0] RD_DATA;
  input [WR_PORTS-1:0] WR_CLK;
  input [WR_PORTS*WIDTH-1:0] WR_EN, WR_DATA;
  input [WR_PORTS*ABITS-1:0] WR_ADDR;

`ifdef SMALL  // for a solver
  localparam ROWS = 2, BLOCK = 16;
`else
  localparam ROWS = 2048, BLOCK = 16384;  // words of 9 bits in a block RAM, or of 1
`endif
  localparam WAYS = (SIZE + ROWS - 1) / ROWS;
  localparam NARROW = WAYS > 4 ? 1 : WAYS > 2 ? 2 : 4;  // bits
  localparam DEEP = (SIZE + BLOCK / NARROW - 1) / (BLOCK / NARROW);
  localparam BLOCKS = WAYS * ((WIDTH + 8) / 9);

  function integer kept;  // columns of 9 bits: the fewest with which there are no more block RAMs
    input integer none;
    integer k;
    begin
      kept = (WIDTH + 8) / 9;
      for (k = (WIDTH + 8) / 9 - 1; k >= 0; k = k - 1)
        if (WAYS * k + DEEP * ((WIDTH - 9 * k + NARROW - 1) / NARROW) <= BLOCKS) kept = k;
    end
  endfunction
  localparam KEPT = kept(0);
  localparam LOW = 9 * KEPT < WIDTH ? 9 * KEPT : WIDTH;
  localparam COLUMNS = (WIDTH - LOW + NARROW - 1) / NARROW;

  localparam ENABLE = _TECHMAP_CONNMAP_WR_EN_[_TECHMAP_BITS_CONNMAP_-1:0];
  localparam ONE_ENABLE = _TECHMAP_CONNMAP_WR_EN_ == {(WR_PORTS * WIDTH){ENABLE}};
  localparam UNKNOWN = INIT === {(SIZE * WIDTH){1'bx}};
  localparam FAIL = RD_PORTS != 1 || WR_PORTS != 1 || RD_CLK_ENABLE != 1 || WAYS < 2 || KEPT == 0 || COLUMNS == 0
    || !ONE_ENABLE || !(UNKNOWN || INIT === {(SIZE * WIDTH){1'b0}});

  wire _TECHMAP_FAIL_ = FAIL;

  // a part's number in characters, for its name
  function [23:0] digits;
    input integer n;
    begin
      digits[23:16] = 48 + n / 100;
      digits[15:8] = 48 + n / 10 % 10;
      digits[7:0] = 48 + n % 10;
    end
  endfunction

`define PART(number, low, size) \
  \$mem_v2 #(.MEMID({MEMID, "_", digits(number)}), .SIZE(SIZE), .OFFSET(OFFSET), .ABITS(ABITS), .WIDTH(size), \
    .INIT({(SIZE * (size)){UNKNOWN ? 1'bx : 1'b0}}), .RD_PORTS(1), .RD_CLK_ENABLE(RD_CLK_ENABLE), \
    .RD_CLK_POLARITY(RD_CLK_POLARITY), .RD_TRANSPARENCY_MASK(RD_TRANSPARENCY_MASK), \
    .RD_COLLISION_X_MASK(RD_COLLISION_X_MASK), .RD_WIDE_CONTINUATION(RD_WIDE_CONTINUATION), \
    .RD_CE_OVER_SRST(RD_CE_OVER_SRST), .RD_ARST_VALUE(RD_ARST_VALUE[low +: size]), \
    .RD_SRST_VALUE(RD_SRST_VALUE[low +: size]), .RD_INIT_VALUE(RD_INIT_VALUE[low +: size]), .WR_PORTS(1), \
    .WR_CLK_ENABLE(WR_CLK_ENABLE), .WR_CLK_POLARITY(WR_CLK_POLARITY), .WR_PRIORITY_MASK(WR_PRIORITY_MASK), \
    .WR_WIDE_CONTINUATION(WR_WIDE_CONTINUATION)) part (.RD_CLK(RD_CLK), .RD_EN(RD_EN), .RD_ARST(RD_ARST), \
    .RD_SRST(RD_SRST), .RD_ADDR(RD_ADDR), .RD_DATA(RD_DATA[low +: size]), .WR_CLK(WR_CLK), \
    .WR_EN(WR_EN[low +: size]), .WR_ADDR(WR_ADDR), .WR_DATA(WR_DATA[low +: size]));

  genvar n;
  generate if (!FAIL) begin
    if (LOW > 0) begin : first
      `PART(0, 0, LOW)
    end
    for (n = 0; n < COLUMNS; n = n + 1) begin : column
      localparam FIRST = LOW + n * NARROW;
      localparam BITS = FIRST + NARROW > WIDTH ? WIDTH - FIRST : NARROW;
      `PART(n + 1, FIRST, BITS)
    end
  end endgenerate
endmodule

// After: multiplexers of what is read, with the slices' own, which the mapping to LUTs does not see: of four words
// 2 LUTs for a bit, of eight 4, where it takes 4 and 6.
`else
(* techmap_celltype = "$bmux" *)
module deep_multiplexer (A, S, Y);
  parameter WIDTH = 0;
  parameter S_WIDTH = 0;
  input [(WIDTH << S_WIDTH)-1:0] A;
  input [S_WIDTH-1:0] S;
  output [WIDTH-1:0] Y;
  wire _TECHMAP_FAIL_ = S_WIDTH < 2 || S_WIDTH > 4;
  genvar n, k;
  generate for (n = 0; n < WIDTH; n = n + 1) begin : each
    wire [(1 << (S_WIDTH-1))-1:0] two;
    wire [(1 << (S_WIDTH-2))-1:0] four;
    for (k = 0; k < 1 << (S_WIDTH-1); k = k + 1) begin : pair
      LUT4 #(.INIT(16'hCACA)) lut (.A(A[2*k*WIDTH+n]), .B(A[(2*k+1)*WIDTH+n]), .C(S[0]), .D(1'b0), .Z(two[k]));
    end
    for (k = 0; k < 1 << (S_WIDTH-2); k = k + 1) begin : slice
      PFUMX mux (.BLUT(two[2*k]), .ALUT(two[2*k+1]), .C0(S[1]), .Z(four[k]));
    end
    if (S_WIDTH == 2) assign Y[n] = four[0];
    else if (S_WIDTH == 3) L6MUX21 mux (.D0(four[0]), .D1(four[1]), .SD(S[2]), .Z(Y[n]));
    else begin
      wire [1:0] eight;
      L6MUX21 m0 (.D0(four[0]), .D1(four[1]), .SD(S[2]), .Z(eight[0]));
      L6MUX21 m1 (.D0(four[2]), .D1(four[3]), .SD(S[2]), .Z(eight[1]));
      L6MUX21 m2 (.D0(eight[0]), .D1(eight[1]), .SD(S[3]), .Z(Y[n]));
    end
  end endgenerate
endmodule
`endif
