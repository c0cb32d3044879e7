# Zynq UltraScale+: registers on HPM0 (full power domain), memory by HP0, interrupt 0 of the programmable logic.

create_bd_cell -type ip -vlnv xilinx.com:ip:zynq_ultra_ps_e ps
apply_bd_automation -rule xilinx.com:bd_rule:zynq_ultra_ps_e -config {apply_board_preset "1"} [get_bd_cells ps]
set_property -dict [list \
    CONFIG.PSU__USE__M_AXI_GP0 {1} \
    CONFIG.PSU__USE__M_AXI_GP1 {0} \
    CONFIG.PSU__USE__M_AXI_GP2 {0} \
    CONFIG.PSU__USE__S_AXI_GP2 {1} \
    CONFIG.PSU__SAXIGP2__DATA_WIDTH [expr {max(32, min(128, $bus_bits))}] \
    CONFIG.PSU__USE__IRQ0 {1} \
    CONFIG.PSU__FPGA_PL0_ENABLE {1} \
    CONFIG.PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ $clock_mhz \
] [get_bd_cells ps]

create_bd_cell -type ip -vlnv xilinx.com:ip:proc_sys_reset reset
create_bd_cell -type ip -vlnv xilinx.com:ip:smartconnect to_registers
create_bd_cell -type ip -vlnv xilinx.com:ip:smartconnect to_memory
foreach cell {to_registers to_memory} {
    set_property -dict {CONFIG.NUM_SI 1 CONFIG.NUM_MI 1} [get_bd_cells $cell]
}

foreach pin {
    ps/maxihpm0_fpd_aclk ps/saxihp0_fpd_aclk reset/slowest_sync_clk to_registers/aclk to_memory/aclk accelerator/clk
} {
    connect_bd_net [get_bd_pins ps/pl_clk0] [get_bd_pins $pin]
}
connect_bd_net [get_bd_pins ps/pl_resetn0] [get_bd_pins reset/ext_reset_in]
foreach cell {to_registers to_memory} {
    connect_bd_net [get_bd_pins reset/interconnect_aresetn] [get_bd_pins $cell/aresetn]
}
connect_bd_net [get_bd_pins reset/peripheral_reset] [get_bd_pins accelerator/rst]

foreach {from to} {
    ps/M_AXI_HPM0_FPD to_registers/S00_AXI
    to_registers/M00_AXI accelerator/s_axi
    accelerator/m_axi to_memory/S00_AXI
    to_memory/M00_AXI ps/S_AXI_HP0_FPD
} {
    connect_bd_intf_net [get_bd_intf_pins $from] [get_bd_intf_pins $to]
}
connect_bd_net [get_bd_pins accelerator/interrupt] [get_bd_pins ps/pl_ps_irq0]
