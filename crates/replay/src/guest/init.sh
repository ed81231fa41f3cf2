#!/bin/busybox sh
# The guest's only process of ours. Lines that begin with @@@ are read outside.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
echo 7 > /proc/sys/kernel/printk
echo 0 > /proc/sys/kernel/hung_task_timeout_secs 2> /dev/null
for word in $(cat /proc/cmdline); do
    case $word in replay.*) key=${word#replay.}; eval "${key%%=*}='${key#*=}'" ;; esac
done
# client: the device's path below /sys/bus; wait: the longest wait for a working device, in seconds.
device=/sys/bus/$client
gate=$(cat /mod/gate)
driver=$(cat /mod/client)

load() {
    case $1 in nvme_core) options="admin_timeout=$patience io_timeout=$patience" ;; *) options= ;; esac
    insmod /mod/$1.ko $options
}
link() { l=$(readlink $1) && echo ${l##*/}; }
state() {
    echo "@@@ state driver=$(link $device/driver) group=$(link $device/iommu_group) type=$(cat $device/iommu_group/type 2> /dev/null)"
}
interrupts() { echo "@@@ interrupts $(grep -E "$irq" /proc/interrupts | awk '{ n += $2 + $3 } END { print n + 0 }')"; }
# Whether the device works, as a user sees it.
use() {
    case $driver in
    nvme) [ -b /dev/nvme0n1 ] && timeout 5 head -c 24 /dev/nvme0n1 ;;
    virtio_mmio | virtio_pci) [ -e $device/driver ] && timeout 5 head -c 8 /dev/hwrng | wc -c ;;
    # An interface that comes up raises an interrupt by itself: its link is up.
    e1000e)
        for name in $(ls $device/net 2> /dev/null); do
            timeout 5 ip link set $name up && sleep 2
            echo $name
        done
        ;;
    esac
}

for module in $(cat /mod/early); do load $module; done
echo "@@@ ready"
( load $gate; echo "@@@ gate returned $?" ) &
( load $driver; echo "@@@ client returned $?"; : > /returned ) &
# A thread that is held is no reason to end: the wait begins when the driver's module is loaded.
waited=0
seconds=0
while [ $waited -lt $wait ] && [ $seconds -lt 120 ]; do
    [ -n "$probe" ] && [ -e "$probe" ] && break
    sleep 1
    seconds=$((seconds + 1))
    [ -e /returned ] && waited=$((waited + 1))
done
state
answer=$(use)
echo "@@@ use $answer"
interrupts
echo "@@@ end"
sleep 1
echo b > /proc/sysrq-trigger
sleep 10
