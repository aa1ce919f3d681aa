//! The configurations of the proxies: one thread, keep-alive on both sides, and a cookie where there is one.

use std::{
    fmt::{self, Write},
    net::SocketAddr,
    path::Path,
};

use serde_json::{Value, json};

use crate::{certificate::Certificate, peer::Setup};

/// What a configuration is about.
#[derive(Debug)]
pub(crate) struct Site<'a> {
    /// In clear text, HTTP/1.1 and HTTP/2.
    pub(crate) addr: SocketAddr,
    pub(crate) tls_addr: SocketAddr,
    pub(crate) certificate: &'a Certificate,
    pub(crate) backends: &'a [SocketAddr],
    pub(crate) setup: Setup,
    /// Of clients.
    pub(crate) connections: usize,
}

pub(crate) fn gateway(site: &Site<'_>) -> Result<String, fmt::Error> {
    let Site { addr, tls_addr, connections, .. } = site;
    let Certificate { cert, key, .. } = site.certificate;
    let mut file = format!(
        "[[listener]]\naddress = \"{addr}\"\n\
         [[listener]]\naddress = \"{tls_addr}\"\n\
         tls = {{ certificates = [{{ cert = {cert:?}, key = {key:?} }}] }}\n\
         [limits]\nconnections = {connections}\nidle_timeout = \"600s\"\n\
         [[affinity]]\ntype = \"cookie\"\nname = \"SRV\"\n"
    );
    match site.setup {
        Setup::Sealed => writeln!(file, "keys = [\"env:PEERS_KEY\"]")?,
        _ => writeln!(file, "format = \"plain\"")?,
    }
    for (number, backend) in site.backends.iter().enumerate() {
        writeln!(file, "[[backend]]\nid = \"s{number}\"\nurl = \"http://{backend}\"")?;
    }
    Ok(file)
}

/// What the gateway tells the backends about the client, without the copies of such fields that a client sends.
pub(crate) const HAPROXY_FIELDS: &str = " \
    http-request del-header x-forwarded- -m beg\n \
    http-request del-header x-real-ip\n \
    http-request del-header x-client-ip\n \
    http-request del-header true-client-ip\n \
    http-request set-header Forwarded for=%[src];proto=%[ssl_fc,iif(https,http)];host=%[req.hdr(host)]\n \
    http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]\n \
    http-request set-header X-Forwarded-Host %[req.hdr(host)]\n \
    option forwardfor\n";

/// With `more` lines for its frontend.
pub(crate) fn haproxy(site: &Site<'_>, more: &str) -> Result<String, fmt::Error> {
    let Site { addr, tls_addr, connections, .. } = site;
    let mut file = format!(
        "global\n nbthread 1\n no strict-limits\n maxconn {connections}\n\
         defaults\n mode http\n timeout connect 1s\n timeout client 600s\n timeout server 600s\n \
         timeout tunnel 600s\n\
         frontend clients\n bind {addr}\n bind {tls_addr} ssl crt {} alpn h2,http/1.1\n{more} \
         default_backend servers\n\
         backend servers\n cookie SRV insert indirect nocache\n",
        site.certificate.pem.display()
    );
    for (number, backend) in site.backends.iter().enumerate() {
        writeln!(file, " server s{number} {backend} cookie s{number}")?;
    }
    Ok(file)
}

/// It has no cookies of its own in this edition: the backend is a hash of the client's.
pub(crate) fn nginx(site: &Site<'_>, folder: &Path) -> Result<String, fmt::Error> {
    let Site { addr, tls_addr, connections, .. } = site;
    let mut file = format!(
        "daemon off;\nmaster_process off;\npid {folder}/nginx.pid;\nerror_log stderr crit;\n\
         worker_rlimit_nofile 40000;\n\
         events {{ worker_connections {}; }}\nhttp {{\n\
         access_log off;\nkeepalive_requests 100000000;\nkeepalive_timeout 600s;\n\
         client_body_temp_path {folder}/body;\nproxy_temp_path {folder}/proxy;\n\
         fastcgi_temp_path {folder}/f;\nuwsgi_temp_path {folder}/u;\nscgi_temp_path {folder}/s;\n\
         client_max_body_size 0;\nssl_certificate {};\nssl_certificate_key {};\n\
         map $http_upgrade $up {{ default upgrade; '' ''; }}\nupstream servers {{\n\
         hash $cookie_SRV consistent;\n",
        2 * connections + 1000,
        site.certificate.cert.display(),
        site.certificate.key.display(),
        folder = folder.display(),
    );
    for backend in site.backends {
        writeln!(file, "server {backend};")?;
    }
    write!(
        file,
        "keepalive 256;\nkeepalive_requests 100000000;\n}}\n\
         server {{\nlisten {addr};\nlisten {tls_addr} ssl http2;\n\
         location / {{\nproxy_pass http://servers;\nproxy_http_version 1.1;\n\
         proxy_set_header Host $http_host;\nproxy_set_header Connection $up;\n\
         proxy_set_header Upgrade $http_upgrade;\nclient_body_buffer_size 2m;\n\
         proxy_read_timeout 600s;\n}}\n}}\n}}\n"
    )?;
    Ok(file)
}

/// Where Envoy's types are.
const API: &str = "type.googleapis.com/envoy.extensions";

/// Its cookie has the address of the backend (`stateful_session`). JSON, which is YAML, too.
pub(crate) fn envoy(site: &Site<'_>) -> String {
    let tls = json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": format!("{API}.transport_sockets.tls.v3.DownstreamTlsContext"),
            "common_tls_context": {
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_certificates": [{
                    "certificate_chain": { "filename": site.certificate.cert },
                    "private_key": { "filename": site.certificate.key },
                }],
            },
        },
    });
    let manager = envoy_manager();
    let address = |addr: &SocketAddr| json!({ "socket_address": { "address": addr.ip(), "port_value": addr.port() } });
    let endpoint = |addr| json!({ "endpoint": { "address": address(addr) } });
    let endpoints: Vec<_> = site.backends.iter().map(endpoint).collect();
    let limits = json!({
        "max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000,
    });
    let file = json!({ "static_resources": {
        "listeners": [
            {
                "name": "clear",
                "address": address(&site.addr),
                "filter_chains": [{ "filters": [&manager] }],
            },
            {
                "name": "tls",
                "address": address(&site.tls_addr),
                "filter_chains": [{ "filters": [&manager], "transport_socket": tls }],
            },
        ],
        "clusters": [{
            "name": "servers",
            "type": "STATIC",
            "connect_timeout": "1s",
            "load_assignment": {
                "cluster_name": "servers",
                "endpoints": [{ "lb_endpoints": endpoints }],
            },
            "circuit_breakers": { "thresholds": [limits] },
        }],
    } });
    file.to_string()
}

/// What handles the requests of Envoy's clients.
fn envoy_manager() -> Value {
    let cookie = json!({
        "name": "envoy.filters.http.stateful_session",
        "typed_config": {
            "@type": format!("{API}.filters.http.stateful_session.v3.StatefulSession"),
            "session_state": {
                "name": "envoy.http.stateful_session.cookie",
                "typed_config": {
                    "@type": format!("{API}.http.stateful_session.cookie.v3.CookieBasedSessionState"),
                    "cookie": { "name": "SRV", "path": "/" },
                },
            },
        },
    });
    let router = json!({
        "name": "envoy.filters.http.router",
        "typed_config": { "@type": format!("{API}.filters.http.router.v3.Router") },
    });
    json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": format!("{API}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": "clients",
            "codec_type": "AUTO",
            "upgrade_configs": [{ "upgrade_type": "websocket" }],
            "stream_idle_timeout": "0s",
            "generate_request_id": false,
            "http_filters": [cookie, router],
            "route_config": { "virtual_hosts": [{
                "name": "all",
                "domains": ["*"],
                "routes": [{
                    "match": { "prefix": "/" },
                    "route": { "cluster": "servers", "timeout": "0s" },
                }],
            }] },
        },
    })
}
