//! The proxy's processes: one that serves what is wanted, and those before it that finish.

use std::time::Duration;

use crate::reconcile::callers::Interest;
use crate::reconcile::fact::{CallerId, ProxyInstance};
use crate::reconcile::liveness::PROBE_PERIOD;
use crate::reconcile::order::Order;
use crate::reconcile::plan::Planner;
use crate::reconcile::proxy::{PROXY_ANSWER_MAX, PROXY_START_MAX, Proxy, ProxyPhase};
use crate::reconcile::replica::LEAVING_MAX;

/// What a proxy that was replaced has beyond the time that a connection may be idle.
const IDLE_MARGIN: Duration = Duration::from_secs(5);

impl<'a> Planner<'a> {
    pub(super) fn proxy(&mut self) {
        let settings = &self.desired.http;
        let proxies = &self.observed.proxies;
        match proxies.current() {
            None => self.start_proxy(),
            Some((_, proxy)) if !proxy.can_take(settings) => self.start_proxy(),
            Some((_, proxy)) if proxies.has_been_given(proxy, settings) => {}
            Some((instance, _)) => {
                let (settings, sequence) = (settings.clone(), self.next_sequence());
                self.order(Order::ConfigureProxy { instance, settings, sequence });
            }
        }
        let Some((current, proxy)) = proxies.current() else { return };
        let ready = proxy.phase == ProxyPhase::Running
            && proxy.listening
            && self.interest_of(&CallerId::Proxy(current)).is_some_and(|interest| interest.is_settled());
        let grace = self.longest_grace();
        for (instance, proxy) in &proxies.all {
            let instance = *instance;
            let hung = match proxy.phase {
                ProxyPhase::Starting => self.due(proxy.spawned_at + PROXY_START_MAX),
                ProxyPhase::Running => {
                    let interest = self.interest_of(&CallerId::Proxy(instance));
                    let waiting = interest.and_then(|interest| interest.waiting_since());
                    proxy.hung || waiting.is_some_and(|since| self.due(since + PROXY_ANSWER_MAX))
                }
                ProxyPhase::Draining(until) => self.due(until + LEAVING_MAX),
                ProxyPhase::Killed => false,
            };
            let knows = |interest: &Interest| interest.has_applied();
            if hung {
                self.order(Order::KillProxy { instance });
            } else if proxy.phase == ProxyPhase::Running
                && !proxy.listening
                && self.interest_of(&CallerId::Proxy(instance)).is_some_and(knows)
            {
                // Not before: what it does not know yet, it would answer with 404.
                self.order(Order::ListenProxy { instance });
            } else if instance != current && ready && proxy.phase == ProxyPhase::Running {
                // An idle connection may stay as long as it ever may: closed sooner, it might be under a request.
                let timeout = grace.max(proxy.settings.keep_alive_timeout + IDLE_MARGIN);
                self.order(Order::DrainProxy { instance, timeout });
            } else if instance != current && proxy.phase == ProxyPhase::Starting {
                self.order(Order::KillProxy { instance });
            } else if proxy.phase == ProxyPhase::Running {
                self.probe_proxy(instance, proxy);
            }
        }
    }

    /// Asks for a sign of life, and looks again when it has not come.
    fn probe_proxy(&mut self, instance: ProxyInstance, proxy: &Proxy) {
        let due = self.due(proxy.liveness.next_at(PROBE_PERIOD));
        if due && proxy.liveness.asked.is_none() {
            let sequence = self.next_sequence();
            self.order(Order::ProbeProxy { instance, sequence });
        }
    }

    fn start_proxy(&mut self) {
        let proxies = &self.observed.proxies;
        if proxies.next_start.is_none_or(|at| self.due(at)) {
            let instance = ProxyInstance(proxies.newest + 1);
            self.order(Order::SpawnProxy { instance, settings: self.desired.http.clone() });
        }
    }

    fn interest_of(&self, caller: &CallerId) -> Option<&'a Interest> {
        self.observed.callers.all.get(caller).and_then(|caller| caller.interests.get(&None))
    }
}
