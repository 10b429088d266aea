# With look=1 prints of a save what a plan compares. Counters and headers are not state; nor are the connections that
# were open when the rules came (conntrack.sh). Before IPT_CHANGE_AWK it also ends with 0 if the save is as the own text behind
# it says and file `asked_text` is the same as file `kept_text`, else with 3: what was proven once and is still there
# needs no second proof.
look && !goal && NF && $0 != "=" && !/^# (Generated|Completed)/ && $1 != ":KVMFW--flows" && $2 != "KVMFW--flows" && !/ -j KVMFW--flows$/ {
	if (/^:/) print $1 " " $2
	else print
}
