# Makes the project, the block design and the bitstream:
#
#     vivado -mode batch -source project.tcl               up to the bitstream
#     vivado -mode batch -source project.tcl -tclargs design   the block design only

set folder [file dirname [file normalize [info script]]]
source [file join $folder settings.tcl]
source [file join $folder package_ip.tcl]

create_project sateen [file join $folder project] -part $part -force
set known [lsort -dictionary [get_board_parts -quiet "${board_part}:*"]]
if {[llength $known] == 0} {
    error "Vivado does not know board $board_part; install its board files (Vivado store, or the vendor's page)"
}
set_property board_part [lindex $known end] [current_project]
set_property ip_repo_paths [file join $folder ip] [current_project]
update_ip_catalog

create_bd_design system
create_bd_cell -type ip -vlnv sateen:accelerator:$top:1.0 accelerator
source [file join $folder $system.tcl]
assign_bd_address
validate_bd_design
save_bd_design

set design [get_files system.bd]
make_wrapper -files $design -top -import
set_property top system_wrapper [current_fileset]
update_compile_order -fileset sources_1

if {[lindex $argv 0] ne "design"} {
    launch_runs impl_1 -to_step write_bitstream -jobs 4
    wait_on_run impl_1
    if {[get_property PROGRESS [get_runs impl_1]] ne "100%"} {
        error "implementation failed: see [file join $folder project sateen.runs]"
    }
    open_run impl_1
    report_utilization -file [file join $folder utilization.txt]
    report_timing_summary -file [file join $folder timing.txt]
    write_hw_platform -fixed -include_bit -force [file join $folder sateen.xsa]
    set slack [get_property SLACK [get_timing_paths]]
    if {$slack < 0} {
        error "timing is not met: slack $slack ns at $clock_mhz MHz; see timing.txt"
    }
}
