//! A name server on a free port, which answers as a test tells it to.

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

/// What it says to one question.
#[derive(Debug, Clone)]
pub enum Say {
    /// These records, with this TTL in seconds.
    Records(u32, Vec<RData>),
    /// Nothing but this code, and an SOA record with a negative TTL of 0.
    Code(ResponseCode),
    /// Nothing at all.
    Silence,
}

type Zone = Arc<Mutex<HashMap<(String, RecordType), Say>>>;

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

    pub fn say(&self, name: &str, kind: RecordType, say: Say) {
        self.zone.lock().unwrap().insert((name.to_owned(), kind), say);
    }

    /// Says that `name` has these addresses, of either kind.
    pub fn addresses(&self, name: &str, ttl: u32, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse::<IpAddr>().unwrap());
        let (v4, v6): (Vec<_>, Vec<_>) =
            addresses.map(RData::from).partition(|a| a.record_type() == RecordType::A);
        self.say(name, RecordType::A, Say::Records(ttl, v4));
        self.say(name, RecordType::AAAA, Say::Records(ttl, v6));
    }

    /// Says that the service `name` has these targets: priority, weight, port and name.
    pub fn service(&self, name: &str, targets: &[(u16, u16, u16, &str)]) {
        let records = targets.iter().map(|&(priority, weight, port, target)| {
            RData::SRV(SRV::new(priority, weight, port, Name::from_ascii(target).unwrap()))
        });
        self.say(name, RecordType::SRV, Say::Records(0, records.collect()));
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
        let say = zone.lock().unwrap().get(&key).cloned();
        let mut answer = Message::response(question.metadata.id, OpCode::Query);
        answer.metadata.recursion_available = true;
        let name = query.name().clone();
        answer.add_query(query);
        match say.unwrap_or(Say::Code(ResponseCode::NXDomain)) {
            Say::Records(ttl, records) => {
                answer.add_answers(
                    records.into_iter().map(|record| Record::from_rdata(name.clone(), ttl, record)),
                );
            }
            Say::Code(code) => answer.metadata.response_code = code,
            Say::Silence => continue,
        }
        if answer.answers.is_empty() {
            let root = Name::from_ascii("test.").unwrap();
            let soa = SOA::new(root.clone(), root.clone(), 1, 60, 60, 60, 0);
            answer.add_authority(Record::from_rdata(root, 0, RData::SOA(soa)));
        }
        socket.send_to(&answer.to_vec().unwrap(), peer).await.unwrap();
    }
}
