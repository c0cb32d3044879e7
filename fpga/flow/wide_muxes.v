// Multiplexers of four and eight, as Yosys' muxcover finds them, of one family's slices. fpga/flow/wide_muxes.py
//
// Of two data inputs and a select each LUT makes a bit; the multiplexers behind LUTs are there anyway. ABC, which maps
// the rest, knows LUTs of five and six inputs as two and four, and not that these have inputs of their own.

`ifdef ECP5
// Ref: Lattice FPGA-TN-02216 (ECP5 slices): PFUMX joins two LUTs, L6MUX21 two of those.
module \$_MUX4_ (input A, B, C, D, S, T, output Y);
  wire low, high;
  LUT4 #(.INIT(16'hCACA)) lut_low (.A(A), .B(B), .C(S), .D(1'b0), .Z(low));
  LUT4 #(.INIT(16'hCACA)) lut_high (.A(C), .B(D), .C(S), .D(1'b0), .Z(high));
  PFUMX join (.ALUT(high), .BLUT(low), .C0(T), .Z(Y));
endmodule
`define JOIN(low, high, select, y) L6MUX21 join (.D0(low), .D1(high), .SD(select), .Z(y))
`endif

`ifdef XCUP
// Ref: AMD UG574 (UltraScale CLB): four inputs and two selects are a LUT, and MUXF7 joins two.
module \$_MUX4_ (input A, B, C, D, S, T, output Y);
  LUT6 #(.INIT(64'hFF00F0F0CCCCAAAA)) lut (.I0(A), .I1(B), .I2(C), .I3(D), .I4(S), .I5(T), .O(Y));
endmodule
`define JOIN(low, high, select, y) MUXF7 join (.I0(low), .I1(high), .S(select), .O(y))
`endif

module \$_MUX8_ (input A, B, C, D, E, F, G, H, S, T, U, output Y);
  wire low, high;
  \$_MUX4_ four_low (.A(A), .B(B), .C(C), .D(D), .S(S), .T(T), .Y(low));
  \$_MUX4_ four_high (.A(E), .B(F), .C(G), .D(H), .S(S), .T(T), .Y(high));
  `JOIN(low, high, U, Y);
endmodule
