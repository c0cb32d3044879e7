# Around the processing system `ps`, on any Zynq. Given: its pins `clock`, `resetn` and `interrupt`, its interfaces `host`
# (to the registers) and `memory`, and `clocked`, their clock pins.

create_bd_cell -type ip -vlnv xilinx.com:ip:proc_sys_reset reset
create_bd_cell -type ip -vlnv xilinx.com:ip:smartconnect to_registers
create_bd_cell -type ip -vlnv xilinx.com:ip:smartconnect to_memory
foreach cell {to_registers to_memory} {
    set_property -dict {CONFIG.NUM_SI 1 CONFIG.NUM_MI 1} [get_bd_cells $cell]
}

foreach pin [concat $clocked reset/slowest_sync_clk to_registers/aclk to_memory/aclk accelerator/clk] {
    connect_bd_net [get_bd_pins $clock] [get_bd_pins $pin]
}
connect_bd_net [get_bd_pins $resetn] [get_bd_pins reset/ext_reset_in]
foreach cell {to_registers to_memory} {
    connect_bd_net [get_bd_pins reset/interconnect_aresetn] [get_bd_pins $cell/aresetn]
}
connect_bd_net [get_bd_pins reset/peripheral_reset] [get_bd_pins accelerator/rst]

foreach {from to} [list \
    $host to_registers/S00_AXI \
    to_registers/M00_AXI accelerator/s_axi \
    accelerator/m_axi to_memory/S00_AXI \
    to_memory/M00_AXI $memory \
] {
    connect_bd_intf_net [get_bd_intf_pins $from] [get_bd_intf_pins $to]
}
connect_bd_net [get_bd_pins accelerator/interrupt] [get_bd_pins $interrupt]
