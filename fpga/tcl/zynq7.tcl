# Zynq 7000: registers on GP0, memory by HP0 (its first 4 GiB), the first interrupt of the programmable logic.

create_bd_cell -type ip -vlnv xilinx.com:ip:processing_system7 ps
apply_bd_automation -rule xilinx.com:bd_rule:processing_system7 \
    -config {make_external "FIXED_IO, DDR" apply_board_preset "1" Master "Disable" Slave "Disable"} [get_bd_cells ps]
set_property -dict [list \
    CONFIG.PCW_USE_M_AXI_GP0 {1} \
    CONFIG.PCW_USE_S_AXI_HP0 {1} \
    CONFIG.PCW_S_AXI_HP0_DATA_WIDTH [expr {$bus_bits <= 32 ? 32 : 64}] \
    CONFIG.PCW_USE_FABRIC_INTERRUPT {1} \
    CONFIG.PCW_IRQ_F2P_INTR {1} \
    CONFIG.PCW_FPGA0_PERIPHERAL_FREQMHZ $clock_mhz \
] [get_bd_cells ps]

create_bd_cell -type ip -vlnv xilinx.com:ip:proc_sys_reset reset
create_bd_cell -type ip -vlnv xilinx.com:ip:smartconnect to_registers
create_bd_cell -type ip -vlnv xilinx.com:ip:smartconnect to_memory
foreach cell {to_registers to_memory} {
    set_property -dict {CONFIG.NUM_SI 1 CONFIG.NUM_MI 1} [get_bd_cells $cell]
}

foreach pin {
    ps/M_AXI_GP0_ACLK ps/S_AXI_HP0_ACLK reset/slowest_sync_clk to_registers/aclk to_memory/aclk accelerator/clk
} {
    connect_bd_net [get_bd_pins ps/FCLK_CLK0] [get_bd_pins $pin]
}
connect_bd_net [get_bd_pins ps/FCLK_RESET0_N] [get_bd_pins reset/ext_reset_in]
foreach cell {to_registers to_memory} {
    connect_bd_net [get_bd_pins reset/interconnect_aresetn] [get_bd_pins $cell/aresetn]
}
connect_bd_net [get_bd_pins reset/peripheral_reset] [get_bd_pins accelerator/rst]

foreach {from to} {
    ps/M_AXI_GP0 to_registers/S00_AXI
    to_registers/M00_AXI accelerator/s_axi
    accelerator/m_axi to_memory/S00_AXI
    to_memory/M00_AXI ps/S_AXI_HP0
} {
    connect_bd_intf_net [get_bd_intf_pins $from] [get_bd_intf_pins $to]
}
connect_bd_net [get_bd_pins accelerator/interrupt] [get_bd_pins ps/IRQ_F2P]
