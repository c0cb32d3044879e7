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

set clock ps/FCLK_CLK0
set resetn ps/FCLK_RESET0_N
set host ps/M_AXI_GP0
set memory ps/S_AXI_HP0
set interrupt ps/IRQ_F2P
set clocked {ps/M_AXI_GP0_ACLK ps/S_AXI_HP0_ACLK}
source [file join $folder zynq.tcl]
