//! The page `mcp`: MCP's own client and server in Python.

use super::{
    page,
    scripts::{Script, three},
};

const SCRIPT: &str = "mcp_recipe.py";

/// One line of each of these gateways' clients, in order.
async fn lines(clients: &mut Script, count: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for _ in 0..count {
        lines.push(clients.line().await);
    }
    lines.sort();
    lines
}

/// Asserts that each of the twelve clients at this place either began anew, as those of a server that is gone, or was not
/// disturbed. How many a server has depends on who came first.
fn assert_some_began_anew(line: &str, place: usize) {
    let numbers: Vec<u32> =
        line.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect();
    let [_, anew, undisturbed, _] = numbers[..] else { panic!("{line}") };
    assert_eq!(line, format!("{place}: {anew} anew, {undisturbed} undisturbed, 12 ended"));
    assert_eq!((anew + undisturbed, anew > 0), (12, true), "{line}");
}

/// Twelve clients of each gateway. A drain, and then the death of a server.
#[tokio::test]
async fn sessions_stay_on_their_server_and_begin_anew_when_it_is_gone() {
    let ([mut one, two, rest], ports) = three(SCRIPT).await;
    let gateway = async |number| page::gateway("mcp.md", number, &ports).await;
    let (learned, wrapped, cookie, mut drained) =
        tokio::join!(gateway(0), gateway(1), gateway(2), gateway(0));
    let url = |gateway: &tower_sticky_heavy_tests::process::Gateway| {
        format!("http://{}/mcp", gateway.addr)
    };
    let urls = [&learned, &wrapped, &cookie, &drained].map(url);
    // The last ones speak the version without sessions, through the gateway that learns.
    let [learned_url, wrapped_url, cookie_url, drained_url] = &urls;
    let args = [
        ["clients", "12"],
        ["legacy", learned_url],
        ["legacy", wrapped_url],
        ["legacy", cookie_url],
        ["legacy", drained_url],
        ["auto", learned_url],
    ];
    let mut clients = Script::start(SCRIPT, &args.concat());
    let open = (0..5).map(|place| format!("{place}: 12 open on 3 servers"));
    assert_eq!(lines(&mut clients, 5).await, open.collect::<Vec<_>>());

    page::drain(&mut drained, "one", "0s").await;
    clients.tell("3 one").await;
    assert_some_began_anew(&clients.line().await, 3);

    one.script.kill().await;
    for place in [0, 1, 2, 4] {
        clients.tell(&format!("{place} one")).await;
    }
    let ends = lines(&mut clients, 4).await;
    for place in [0, 1, 2] {
        assert_some_began_anew(&ends[place], place);
    }
    // Nothing ends where there are no sessions.
    assert_eq!(ends[3], "4: 12 anew, 0 undisturbed, 12 ended");
    drop((two, rest));
}
