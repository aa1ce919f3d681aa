//! A name server on a free port, with replies that tests can set.

#![allow(unreachable_pub, reason = "a module of several targets of tests")]

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};

use tokio::{net::UdpSocket, task::JoinHandle};
use tower_sticky::discovery::hickory_resolver::proto::{
    op::{Message, OpCode, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{SOA, SRV},
    },
};

/// The reply to a query.
#[derive(Debug, Clone)]
pub enum Reply {
    /// These records, with this TTL in seconds.
    Records(u32, Vec<RData>),
    /// Only this code, and an SOA record with a negative TTL of 0.
    Code(ResponseCode),
    /// No reply.
    #[allow(dead_code, reason = "each target uses a part of this")]
    None,
}

type Zone = Arc<Mutex<HashMap<(String, RecordType), Reply>>>;

pub struct NameServer {
    pub addr: SocketAddr,
    zone: Zone,
    task: JoinHandle<()>,
}

impl NameServer {
    pub async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = socket.local_addr().unwrap();
        let zone = Zone::default();
        let task = tokio::spawn(serve(socket, zone.clone()));
        Self { addr, zone, task }
    }

    /// Sets the reply to a query.
    pub fn set(&self, name: &str, kind: RecordType, reply: Reply) {
        self.zone.lock().unwrap().insert((name.to_owned(), kind), reply);
    }

    /// Sets the addresses of `name`, of both kinds.
    pub fn addresses(&self, name: &str, ttl: u32, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse::<IpAddr>().unwrap());
        let (v4, v6): (Vec<_>, Vec<_>) =
            addresses.map(RData::from).partition(|a| a.record_type() == RecordType::A);
        self.set(name, RecordType::A, Reply::Records(ttl, v4));
        self.set(name, RecordType::AAAA, Reply::Records(ttl, v6));
    }

    /// Sets the targets of the service `name`: priority, weight, port and name.
    pub fn service(&self, name: &str, targets: &[(u16, u16, u16, &str)]) {
        let records = targets.iter().map(|&(priority, weight, port, target)| {
            RData::SRV(SRV::new(priority, weight, port, Name::from_ascii(target).unwrap()))
        });
        self.set(name, RecordType::SRV, Reply::Records(0, records.collect()));
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(socket: UdpSocket, zone: Zone) {
    let mut packet = vec![0; 4096];
    loop {
        let (length, peer) = socket.recv_from(&mut packet).await.unwrap();
        let question = Message::from_vec(&packet[..length]).unwrap();
        let query = question.queries[0].clone();
        let key = (query.name().to_lowercase().to_ascii(), query.query_type());
        let reply = zone.lock().unwrap().get(&key).cloned();
        let mut answer = Message::response(question.metadata.id, OpCode::Query);
        answer.metadata.recursion_available = true;
        let name = query.name().clone();
        answer.add_query(query);
        match reply.unwrap_or(Reply::Code(ResponseCode::NXDomain)) {
            Reply::Records(ttl, records) => {
                answer.add_answers(
                    records.into_iter().map(|record| Record::from_rdata(name.clone(), ttl, record)),
                );
            }
            Reply::Code(code) => answer.metadata.response_code = code,
            Reply::None => continue,
        }
        if answer.answers.is_empty() {
            let root = Name::from_ascii("test.").unwrap();
            let soa = SOA::new(root.clone(), root.clone(), 1, 60, 60, 60, 0);
            answer.add_authority(Record::from_rdata(root, 0, RData::SOA(soa)));
        }
        socket.send_to(&answer.to_vec().unwrap(), peer).await.unwrap();
    }
}
