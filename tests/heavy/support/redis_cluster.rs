//! A real Redis cluster of the test's own.

use crate::redis_server::RedisServer;

const NODES: usize = 3;
const SLOTS: usize = 16384;

/// Three masters without replicas; each has a third of the slots. While one is gone the others serve
/// what is theirs.
pub struct RedisCluster {
    pub nodes: Vec<RedisServer>,
}

impl RedisCluster {
    /// Starts one and waits until all nodes agree that it is complete.
    pub async fn start() -> Self {
        let args = ["--cluster-enabled", "yes", "--cluster-require-full-coverage", "no"];
        let args = [&args[..], &["--cluster-node-timeout", "1000"]].concat();
        let nodes: Vec<_> = (0..NODES).map(|_| RedisServer::with(&args)).collect();
        for (position, node) in nodes.iter().enumerate() {
            let first = (position * SLOTS / NODES).to_string();
            let last = ((position + 1) * SLOTS / NODES - 1).to_string();
            assert_eq!(node.command(&["CLUSTER", "ADDSLOTSRANGE", &first, &last]), "+OK");
            let port = node.addr().port().to_string();
            assert_eq!(nodes[0].command(&["CLUSTER", "MEET", "127.0.0.1", &port]), "+OK");
        }
        let cluster = Self { nodes };
        cluster.until_complete().await;
        cluster
    }

    /// Waits until all nodes say that all are there.
    pub async fn until_complete(&self) {
        let complete = |node: &RedisServer| {
            let info = node.command(&["CLUSTER", "INFO"]);
            ["cluster_state:ok", "cluster_slots_ok:16384", "cluster_known_nodes:3"]
                .iter()
                .all(|line| info.contains(line))
        };
        super::until("the cluster is complete", || self.nodes.iter().all(complete)).await;
    }

    /// Its address as clients of ours take it.
    pub fn url(&self) -> String {
        let nodes: Vec<_> = self.nodes.iter().map(|node| node.addr().to_string()).collect();
        format!("redis-cluster://{}", nodes.join(","))
    }

    /// How many keys each node has.
    pub fn sizes(&self) -> Vec<usize> {
        let size = |node: &RedisServer| node.command(&["DBSIZE"])[1..].parse().unwrap();
        self.nodes.iter().map(size).collect()
    }

    /// Which node has this key, whether it is there or not.
    pub fn home(&self, key: &str) -> usize {
        let slot: usize = self.nodes[0].command(&["CLUSTER", "KEYSLOT", key])[1..].parse().unwrap();
        (0..NODES).find(|position| slot < (position + 1) * SLOTS / NODES).unwrap()
    }

    /// Lets all nodes forget the scripts.
    pub fn forget_scripts(&self) {
        for node in &self.nodes {
            assert_eq!(node.command(&["SCRIPT", "FLUSH"]), "+OK");
            node.reset_calls();
        }
    }
}
