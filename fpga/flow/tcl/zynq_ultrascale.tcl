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

set clock ps/pl_clk0
set resetn ps/pl_resetn0
set host ps/M_AXI_HPM0_FPD
set memory ps/S_AXI_HP0_FPD
set interrupt ps/pl_ps_irq0
set clocked {ps/maxihpm0_fpd_aclk ps/saxihp0_fpd_aclk}
source [file join $folder zynq.tcl]
