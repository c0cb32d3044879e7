# PCIe card: the host reaches memory and registers through AMD's DMA bridge (XDMA, its free driver); one DDR4 channel.
# The accelerator runs at the bridge's clock; SmartConnect crosses to the memory's.

create_bd_cell -type ip -vlnv xilinx.com:ip:xdma bridge
apply_bd_automation -rule xilinx.com:bd_rule:board \
    -config {Board_Interface {pci_express_x16} Manual_Source {Auto}} [get_bd_intf_pins bridge/pcie_mgt]
apply_bd_automation -rule xilinx.com:bd_rule:board \
    -config {Board_Interface {pcie_perstn} Manual_Source {Auto}} [get_bd_pins bridge/sys_rst_n]
set_property -dict [list \
    CONFIG.xdma_axi_intf_mm {AXI_Memory_Mapped} \
    CONFIG.axilite_master_en {true} \
    CONFIG.axilite_master_size {1} \
    CONFIG.axilite_master_scale {Megabytes} \
    CONFIG.xdma_num_usr_irq {1} \
] [get_bd_cells bridge]

create_bd_cell -type ip -vlnv xilinx.com:ip:util_ds_buf refclk
apply_bd_automation -rule xilinx.com:bd_rule:board \
    -config {Board_Interface {pcie_refclk} Manual_Source {Auto}} [get_bd_intf_pins refclk/CLK_IN_D]
set_property CONFIG.C_BUF_TYPE {IBUFDSGTE} [get_bd_cells refclk]
connect_bd_net [get_bd_pins refclk/IBUF_DS_ODIV2] [get_bd_pins bridge/sys_clk]
connect_bd_net [get_bd_pins refclk/IBUF_OUT] [get_bd_pins bridge/sys_clk_gt]

create_bd_cell -type ip -vlnv xilinx.com:ip:ddr4 memory
apply_bd_automation -rule xilinx.com:bd_rule:board \
    -config [list Board_Interface $memory Manual_Source Auto] [get_bd_intf_pins memory/C0_DDR4]
apply_bd_automation -rule xilinx.com:bd_rule:board \
    -config {Board_Interface {default_300mhz_clk0} Manual_Source {Auto}} [get_bd_intf_pins memory/C0_SYS_CLK]

create_bd_cell -type ip -vlnv xilinx.com:ip:proc_sys_reset reset
create_bd_cell -type ip -vlnv xilinx.com:ip:proc_sys_reset memory_reset
create_bd_cell -type ip -vlnv xilinx.com:ip:smartconnect to_registers
set_property -dict {CONFIG.NUM_SI 1 CONFIG.NUM_MI 1} [get_bd_cells to_registers]
create_bd_cell -type ip -vlnv xilinx.com:ip:smartconnect to_memory
set_property -dict {CONFIG.NUM_SI 2 CONFIG.NUM_MI 1 CONFIG.NUM_CLKS 2} [get_bd_cells to_memory]

foreach pin {reset/slowest_sync_clk to_registers/aclk to_memory/aclk accelerator/clk} {
    connect_bd_net [get_bd_pins bridge/axi_aclk] [get_bd_pins $pin]
}
foreach pin {memory_reset/slowest_sync_clk to_memory/aclk1} {
    connect_bd_net [get_bd_pins memory/c0_ddr4_ui_clk] [get_bd_pins $pin]
}
connect_bd_net [get_bd_pins bridge/axi_aresetn] [get_bd_pins reset/ext_reset_in]
foreach cell {to_registers to_memory} {
    connect_bd_net [get_bd_pins reset/interconnect_aresetn] [get_bd_pins $cell/aresetn]
}
connect_bd_net [get_bd_pins reset/peripheral_reset] [get_bd_pins accelerator/rst]
connect_bd_net [get_bd_pins memory/c0_ddr4_ui_clk_sync_rst] [get_bd_pins memory_reset/ext_reset_in]
connect_bd_net [get_bd_pins memory_reset/peripheral_aresetn] [get_bd_pins memory/c0_ddr4_aresetn]
connect_bd_net [get_bd_pins reset/peripheral_reset] [get_bd_pins memory/sys_rst]

foreach {from to} {
    bridge/M_AXI_LITE to_registers/S00_AXI
    to_registers/M00_AXI accelerator/s_axi
    bridge/M_AXI to_memory/S00_AXI
    accelerator/m_axi to_memory/S01_AXI
    to_memory/M00_AXI memory/C0_DDR4_S_AXI
} {
    connect_bd_intf_net [get_bd_intf_pins $from] [get_bd_intf_pins $to]
}
connect_bd_net [get_bd_pins accelerator/interrupt] [get_bd_pins bridge/usr_irq_req]
