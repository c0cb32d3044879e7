# Packages accelerator.v as IP: AXI4 master m_axi, AXI4-Lite slave s_axi, clk, rst (active high), interrupt.

create_project package [file join $folder package] -part $part -force
add_files -norecurse [list [file join $folder accelerator.v]]
add_files -fileset constrs_1 -norecurse [file join $folder accelerator.xdc]
set_property USED_IN {synthesis implementation out_of_context} [get_files accelerator.xdc]
set_property top $top [current_fileset]
update_compile_order -fileset sources_1

ipx::package_project -root_dir [file join $folder ip] -vendor sateen -library accelerator -taxonomy /UserIP -import_files -force
set core [ipx::current_core]
set_property name $top $core
set_property version 1.0 $core
set_property display_name "Sateen accelerator" $core
set_property supported_families {zynq Production zynquplus Production virtexuplus Production} $core

# The bus interfaces, where Vivado has not found them by their names.
foreach {name definition} {
    m_axi xilinx.com:interface:aximm_rtl:1.0
    s_axi xilinx.com:interface:aximm_rtl:1.0
    clk xilinx.com:signal:clock_rtl:1.0
    rst xilinx.com:signal:reset_rtl:1.0
    interrupt xilinx.com:signal:interrupt_rtl:1.0
} {
    if {[llength [ipx::get_bus_interfaces $name -of_objects $core]] == 0} {
        if {[string match *_axi $name]} {
            ipx::infer_bus_interface [lsort [lsearch -all -inline [get_property NAME [ipx::get_ports -of_objects $core]] ${name}_*]] $definition $core
        } else {
            ipx::infer_bus_interface $name $definition $core
        }
    }
}
foreach {interface parameter value} {
    rst POLARITY ACTIVE_HIGH
    interrupt SENSITIVITY LEVEL_HIGH
} {
    set of [ipx::get_bus_interfaces $interface -of_objects $core]
    if {[llength [ipx::get_bus_parameters $parameter -of_objects $of]] == 0} {
        ipx::add_bus_parameter $parameter $of
    }
    set_property value $value [ipx::get_bus_parameters $parameter -of_objects $of]
}
foreach bus {m_axi s_axi} {
    ipx::associate_bus_interfaces -busif $bus -clock clk $core
}
ipx::associate_bus_interfaces -clock clk -reset rst $core

# What the master reaches, and the registers that the slave has.
if {[llength [ipx::get_address_spaces m_axi -of_objects $core]] == 0} {
    ipx::add_address_space m_axi $core
}
set space [ipx::get_address_spaces m_axi -of_objects $core]
set_property range [expr {2 ** $address_bits}] $space
set_property width $bus_bits $space
set_property master_address_space_ref m_axi [ipx::get_bus_interfaces m_axi -of_objects $core]

if {[llength [ipx::get_memory_maps s_axi -of_objects $core]] == 0} {
    ipx::add_memory_map s_axi $core
}
set map [ipx::get_memory_maps s_axi -of_objects $core]
if {[llength [ipx::get_address_blocks -of_objects $map]] == 0} {
    ipx::add_address_block registers $map
}
set block [lindex [ipx::get_address_blocks -of_objects $map] 0]
set_property range [expr {max(4096, $control_bytes)}] $block
set_property width 32 $block
set_property usage register $block
set_property slave_memory_map_ref s_axi [ipx::get_bus_interfaces s_axi -of_objects $core]

ipx::create_xgui_files $core
ipx::update_checksums $core
ipx::check_integrity $core
ipx::save_core $core
close_project
