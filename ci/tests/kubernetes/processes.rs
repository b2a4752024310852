//! The processes of pods, seen from the machine of a cluster of ours: memory, time, traffic.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::installed::Kubernetes;

/// What `/proc/PID/stat` counts in: 10 ms, whatever the kernel's own clock.
const TICK: Duration = Duration::from_millis(10);

/// A process of a program in a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InPod {
    /// The name of its pod.
    pub pod: String,
    id: u32,
}

impl InPod {
    /// Those of a program in the pods with a label; one in each pod.
    pub fn all(kubernetes: &Kubernetes, label: &str, program: &str) -> Vec<InPod> {
        let path = "jsonpath={range .items[*]}{.metadata.uid} {.metadata.name}{\"\\n\"}{end}";
        let pods = kubernetes.cluster.kubectl(&["get", "pods", "-l", label, "-o", path]).unwrap();
        let pods: BTreeMap<&str, &str> = pods.lines().filter_map(|line| line.split_once(' ')).collect();
        let ids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
        let is_program = |process: &InPod| {
            process.read("cmdline").split('\0').next().is_some_and(|path| path.ends_with(&format!("/{program}")))
        };
        let in_pod = |id| {
            let process = InPod { pod: String::new(), id };
            let groups = is_program(&process).then(|| process.read("cgroup"))?;
            let (_, pod) = pods.iter().find(|(uid, _)| groups.contains(*uid))?;
            Some(InPod { pod: (*pod).to_owned(), id })
        };
        let found: Vec<InPod> = ids.filter_map(in_pod).collect();
        assert_eq!(found.len(), pods.len(), "{program} runs once in each pod of {label}: {found:?} of {pods:?}");
        found
    }

    /// Resident memory, in MB.
    pub fn resident(&self) -> f64 {
        let status = self.read("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let line = line.unwrap_or_else(|| panic!("{self:?} is gone"));
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
    }

    /// The time that it has computed, its kernel's part included.
    pub fn computed(&self) -> Duration {
        let stat = self.read("stat");
        // After the name in parentheses the third field comes; the fourteenth and fifteenth are the times.
        let (_, fields) = stat.rsplit_once(") ").unwrap_or_else(|| panic!("{self:?} is gone"));
        let ticks: u32 = fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u32>().unwrap()).sum();
        TICK * ticks
    }

    /// The time that all processes of its container have computed: with its probes.
    pub fn container_computed(&self) -> Duration {
        let groups = self.read("cgroup");
        let of = |controller: &str| groups.lines().find_map(|line| line.split_once(controller)).map(|(_, path)| path);
        let read = |root: &str, path: &str, file: &str| {
            fs::read_to_string(PathBuf::from(format!("{root}{path}")).join(file)).ok()
        };
        if let Some(path) = of(":cpuacct:").or_else(|| of(":cpu,cpuacct:"))
            && let Some(nanoseconds) = read("/sys/fs/cgroup/cpuacct", path, "cpuacct.usage")
        {
            return Duration::from_nanos(nanoseconds.trim().parse().unwrap());
        }
        let stat = of("0::").and_then(|path| read("/sys/fs/cgroup", path, "cpu.stat"));
        let stat = stat.unwrap_or_else(|| panic!("{self:?} has no time: {groups}"));
        let time = stat.lines().find_map(|line| line.strip_prefix("usage_usec ")).unwrap();
        Duration::from_micros(time.parse().unwrap())
    }

    /// Bytes that its pod has received from the network.
    pub fn received(&self) -> u64 {
        let links = self.read("net/dev");
        let link = links.lines().find_map(|line| line.trim().strip_prefix("eth0:"));
        let link = link.unwrap_or_else(|| panic!("{self:?} has no eth0: {links}"));
        link.split_whitespace().next().unwrap().parse().unwrap()
    }

    fn read(&self, file: &str) -> String {
        let bytes = fs::read(format!("/proc/{}/{file}", self.id)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}
