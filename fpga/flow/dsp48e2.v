// DSP48E2 as fpga/flow/dsp_sums.py uses it: a product with its registers, and sums of it with C, PCIN and P. No pre-adder,
// no pattern detector, no carries, no SIMD. For simulation and proofs; Yosys has it as an empty box only.
// Ref: AMD UG579, UltraScale Architecture DSP Slice.
module DSP48E2(
  input CLK, CEA1, CEA2, CEB1, CEB2, CEM, CEP, CEC, CEAD, CEALUMODE, CECARRYIN, CECTRL, CED, CEINMODE,
  input RSTA, RSTB, RSTM, RSTP, RSTC, RSTALLCARRYIN, RSTALUMODE, RSTCTRL, RSTD, RSTINMODE,
  input CARRYIN, CARRYCASCIN, MULTSIGNIN,
  input [29:0] A, ACIN, input [17:0] B, BCIN, input [47:0] C, PCIN, input [26:0] D,
  input [8:0] OPMODE, input [4:0] INMODE, input [3:0] ALUMODE, input [2:0] CARRYINSEL,
  output [47:0] P, PCOUT);
  parameter AREG = 1, BREG = 1, MREG = 1, PREG = 1, CREG = 1, DREG = 1, ADREG = 1, ACASCREG = 1, BCASCREG = 1;
  parameter ALUMODEREG = 1, CARRYINREG = 1, CARRYINSELREG = 1, INMODEREG = 1, OPMODEREG = 1;
  reg signed [26:0] a1 = 0, a2 = 0;
  reg signed [17:0] b1 = 0, b2 = 0;
  reg signed [44:0] m = 0;
  reg [47:0] p = 0;
  wire signed [26:0] a = AREG == 0 ? A[26:0] : a2;
  wire signed [17:0] b = BREG == 0 ? B : b2;
  wire signed [44:0] product = a * b;
  wire signed [44:0] kept = MREG == 0 ? product : m;
  wire [47:0] x = OPMODE[3:0] == 4'b0101 ? {{3{kept[44]}}, kept} : 0;
  wire [47:0] z = OPMODE[6:4] == 3'b001 ? PCIN : OPMODE[6:4] == 3'b010 ? p : OPMODE[6:4] == 3'b011 ? C : 0;
  wire [47:0] w = OPMODE[8:7] == 2'b11 ? C : OPMODE[8:7] == 2'b01 ? p : 0;
  wire [47:0] below = x + z, sum = below + w;
  always @(posedge CLK) begin
    if (RSTA) a1 <= 0; else if (CEA1) a1 <= A[26:0];
    if (RSTA) a2 <= 0; else if (CEA2) a2 <= AREG == 2 ? a1 : A[26:0];
    if (RSTB) b1 <= 0; else if (CEB1) b1 <= B;
    if (RSTB) b2 <= 0; else if (CEB2) b2 <= BREG == 2 ? b1 : B;
    if (RSTM) m <= 0; else if (CEM) m <= product;
    if (RSTP) p <= 0; else if (CEP) p <= sum;
  end
  assign P = PREG == 0 ? sum : p;
  assign PCOUT = P;
endmodule
